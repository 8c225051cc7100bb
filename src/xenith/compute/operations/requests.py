"""From a create body to the rows and the intent of a build; checks that need no host."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import msgspec

from xenith.compute.neighbours import NicRequest, PortInfo
from xenith.compute.schemas.servers import is_true
from xenith.core.errors import Exhausted, Invalid
from xenith.core.limits import METADATA_ITEMS_MAX, USER_DATA_BYTES_MAX

#: Bytes of all injected files' contents together. Source: nova quota defaults.
FILE_BYTES_MAX = 10240
FILE_PATH_BYTES_MAX = 255

UNSET = msgspec.UNSET
_NOT_HOST = re.compile(r"[^a-z0-9.-]+")


class ServerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish for one or several servers."""

    name: str
    flavor_ref: str
    image_ref: str = ""
    hostname: str | None = None
    description: str | None = None
    admin_pass: str | None = None
    metadata: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    #: None asks for the project's own network, () for none.
    nics: tuple[NicRequest, ...] | None = None
    disk_config: str | None = None
    access_ipv4: str = ""
    access_ipv6: str = ""
    files: tuple[tuple[str, str], ...] = ()
    zone: str | None = None
    config_drive: bool = False
    key_name: str | None = None
    min_count: int = 1
    max_count: int = 1
    security_groups: tuple[str, ...] = ("default",)
    user_data: str | None = None
    hints: dict[str, Any] = {}
    host: str | None = None
    wants_reservation: bool = False


def read_request(body: Any) -> ServerRequest:
    """Check a decoded create body and give the request that it means.

    Raises:
        Invalid: fields contradict each other, or one is not what it should be.
        Exhausted: metadata or files are more than the quota.
    """
    server = body.server

    def get(name: str) -> Any:
        value = getattr(server, name, UNSET)
        return None if value is UNSET else value

    least = int(get("min_count") or 1)
    most = int(get("max_count") or max(least, 1))
    if not 1 <= least <= most:
        raise Invalid("min_count must be <= max_count")
    hints = body.hints if body.hints is not UNSET else body.old_hints
    _refuse_volumes(get)
    zone, host = _zone(get("availability_zone"))
    return ServerRequest(
        name=server.name.strip(),
        flavor_ref=str(server.flavor_ref).rstrip("/").rpartition("/")[2],
        image_ref=(get("image_ref") or "").rstrip("/").rpartition("/")[2],
        hostname=get("hostname"),
        description=get("description"),
        admin_pass=get("admin_pass"),
        metadata=checked_metadata(get("metadata") or {}),
        tags=tuple(dict.fromkeys(get("tags") or ())),
        nics=_nics(get("nics")),
        disk_config=get("disk_config"),
        access_ipv4=checked_address(get("access_ipv4"), 4),
        access_ipv6=checked_address(get("access_ipv6"), 6),
        files=checked_files(get("personality") or ()),
        zone=zone,
        config_drive=is_true(get("config_drive")),
        key_name=get("key_name"),
        min_count=least,
        max_count=most,
        security_groups=tuple(dict.fromkeys(group.name for group in get("security_groups") or ()))
        or ("default",),
        user_data=_user_data(get("user_data")),
        hints={}
        if hints is UNSET
        else {
            name: value
            for name, value in msgspec.structs.asdict(hints).items()
            if value is not UNSET
        },
        host=host or get("host") or get("hypervisor_hostname"),
        wants_reservation=is_true(get("return_reservation_id")),
    )


def _refuse_volumes(get: Any) -> None:
    for device in get("block_device_mapping_v2") or ():
        if device.source_type == "image" and device.destination_type == "local":
            continue
        raise Invalid("Block devices other than the image's own disk are not offered by this cloud")
    if get("block_device_mapping"):
        raise Invalid("Block devices other than the image's own disk are not offered by this cloud")


def _zone(text: str | None) -> tuple[str | None, str | None]:
    """Read ``zone`` or ``zone:host``. Source: nova's parsing of availability_zone."""
    if not text:
        return None, None
    zone, _, rest = text.partition(":")
    host, _, node = rest.partition(":")
    return zone or None, host or node or None


def checked_metadata(items: Mapping[str, str]) -> dict[str, str]:
    """Check how many items there are.

    Raises:
        Exhausted: more than the quota.
    """
    if len(items) > METADATA_ITEMS_MAX:
        raise Exhausted(
            f"Maximum number of metadata items exceeds {METADATA_ITEMS_MAX}",
            resource="metadata_items",
            limit=METADATA_ITEMS_MAX,
        )
    return dict(items)


def checked_address(text: str | None, version: int) -> str:
    """Check an address given for access, and write it in its short form.

    Raises:
        Invalid: it is no address of the version.
    """
    if not text:
        return ""
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise Invalid(f"Invalid input for field/attribute accessIPv{version}. Value: {text[:64]}.")
    return str(address)


def _nics(value: Any) -> tuple[NicRequest, ...] | None:
    if value is None or value == "auto":
        return None
    if value == "none":
        return ()
    if not value:
        return None
    nics: list[NicRequest] = []
    for nic in value:
        if nic.uuid is None and nic.port is None:
            raise Invalid("Bad networks format: a network needs a uuid or a port")
        if nic.fixed_ip is not None:
            if nic.port is not None:
                raise Invalid("Specified Fixed IP address cannot be used with a port")
            try:
                ip_address(nic.fixed_ip)
            except ValueError:
                raise Invalid(f"Invalid fixed IP address ({nic.fixed_ip})") from None
        nics.append(
            NicRequest(
                network_id=nic.uuid if nic.port is None else None,
                port_id=nic.port,
                address=nic.fixed_ip,
                tag=nic.tag,
            )
        )
    ports = [nic.port_id for nic in nics if nic.port_id]
    if len(set(ports)) != len(ports):
        raise Invalid("Port IDs must be unique")
    return tuple(nics)


def checked_files(files: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    """Give the files to be put into a guest: paths and base64.

    Raises:
        Exhausted: they are more than the quota.
    """
    total = 0
    for file in files:
        if len(file.path.encode()) > FILE_PATH_BYTES_MAX:
            raise Exhausted("Personality file path exceeds maximum allowed length")
        total += len(decoded(file.contents, f"personality file {file.path[:40]}"))
    if total > FILE_BYTES_MAX:
        raise Exhausted(
            "Personality content exceeds maximum allowed size",
            resource="injected_file_content_bytes",
            limit=FILE_BYTES_MAX,
        )
    return tuple((file.path, file.contents) for file in files)


def _user_data(text: str | None) -> str | None:
    if text is None:
        return None
    if len(text) > USER_DATA_BYTES_MAX:
        raise Invalid(
            f"User data too large. User data must be no larger than {USER_DATA_BYTES_MAX} bytes "
            "once base64 encoded."
        )
    decoded(text, "user_data")
    return text


def decoded(text: str, what: str) -> bytes:
    """Decode base64, white space allowed.

    Raises:
        Invalid: it is no base64.
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"Invalid input for field/attribute {what}: it is no base64") from None


def hostname_of(name: str, server_id: str) -> str:
    """Give the host name that a server's name leads to.

    Source: nova `sanitize_hostname`: lower case, other characters to dashes, at most 63.

    >>> hostname_of("My Server!", "0"), hostname_of("ünï", "0-1")
    ('my-server', 'n')
    """
    text = _NOT_HOST.sub("-", name.lower().replace("_", "-").replace(" ", "-").replace(".", "-"))
    text = re.sub(r"-{2,}", "-", text).strip("-.")[:63].strip("-.")
    return text or f"server-{server_id}"[:63]


def port_row(port: PortInfo) -> dict[str, Any]:
    """Give what a server keeps of a port."""
    return {
        "id": port.id,
        "network_id": port.network_id,
        "network_name": port.network_name,
        "mac": port.mac,
        "mtu": port.mtu,
        "addresses": [
            {
                "subnet_id": address.subnet_id,
                "address": address.address,
                "version": address.version,
                "prefix_length": address.prefix_length,
                "gateway": address.gateway,
                "dns": list(address.dns),
                "routes": [list(route) for route in address.routes],
            }
            for address in port.addresses
        ],
    }
