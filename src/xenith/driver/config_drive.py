"""The config drive: a small read-only disk from which a guest learns what it is.

Pure. The label ``config-2`` is how guests find it; the newest version of the documents is given
twice, under its date and under ``latest``, and stored once.
Source: nova, "Config drives".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from xenith.driver.iso9660 import build_iso9660
from xenith.driver.metadata import Guest, content_path, ec2_meta_data, meta_data, network_data

LABEL = "config-2"
VERSIONS = ("2018-08-27", "latest")
EC2_VERSIONS = ("2009-04-04", "latest")

_encoder = msgspec.json.Encoder()


def build_config_drive(
    instance_id: str, request: Mapping[str, Any], *, admin_pass: str = ""
) -> bytes:
    """Build the drive of an instance; ``request`` has the fields of ``Guest`` by name.

    Raises:
        msgspec.ValidationError: the request is not what ``Guest`` says.
    """
    guest = msgspec.convert(
        {**request, "id": instance_id, "admin_pass": admin_pass}, Guest, strict=False
    )
    return build_iso9660(drive_files(guest), label=LABEL)


def drive_files(guest: Guest) -> dict[str, bytes]:
    """Give the files of the drive by path."""
    documents = {
        "meta_data.json": _encoder.encode(meta_data(guest)),
        "network_data.json": _encoder.encode(network_data(guest.ports)),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b"{}",
    }
    if guest.user_data is not None:
        documents["user_data"] = _decoded(guest.user_data)
    files = {
        f"openstack/{version}/{name}": content
        for version in VERSIONS
        for name, content in documents.items()
    }
    ec2 = _encoder.encode(ec2_meta_data(guest))
    files |= {f"ec2/{version}/meta-data.json": ec2 for version in EC2_VERSIONS}
    for number, (_, content) in enumerate(guest.files):
        files["openstack" + content_path(number)] = _decoded(content)
    return files


def _decoded(text: str) -> bytes:
    return base64.b64decode("".join(text.split()))
