"""Settings: one ``xenith.toml``, overridden by the environment, overridden by flags.

Each setting is a field of ``Settings`` with its default and its meaning beside it; the reference
page and the environment's names (``XENITH_LISTEN``) are derived from the fields.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from xenith.core.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operator can choose for one cloud."""

    #: Where rows, images, hosts and logs live.
    data: str = "data"
    #: The address of the API. Loopback unless you say otherwise.
    listen: str = "127.0.0.1:5000"
    #: The address that clients are told, when a proxy stands in front: ``https://cloud.example``.
    public_url: str = ""
    #: Rows: empty for SQLite in the data directory, or ``postgresql://user@host/name``.
    database: str = ""
    #: Bytes of images: empty for the data directory, or ``s3://bucket/prefix``.
    image_store: str = ""
    #: Hosts that ``xenith up`` runs itself.
    hosts: int = 3
    #: Their backend: auto, sim or qemu.
    backend: str = "auto"
    #: What the cell is: alone (a cloud by itself), root (of a tree), leaf (with hosts) or router.
    role: str = "alone"
    #: The zone of a leaf's own hosts.
    zone: str = "nova"
    #: The cell's RabbitMQ, ``amqps://user@host:port/vhost``, on which its links to parents are.
    broker: str = ""
    #: The password of the broker's user; belongs in the environment.
    broker_password: str = ""
    #: The file of the certificate, in PEM, that the broker's comes from.
    broker_ca: str = ""
    #: The broker's management, ``https://host:port``, where the accounts of parents are made.
    broker_admin: str = ""
    #: A seed makes ids and chance repeatable; for tests only.
    seed: int | None = None
    #: Seconds each simulated operation takes.
    sim_latency_s: float = 0.0
    #: The share of simulated operations that fail, 0 to 1.
    sim_failure_rate: float = 0.0
    #: The region's name in the catalog.
    region: str = "RegionOne"
    #: Seconds that a token lives.
    token_life_s: int = 3600
    #: debug, info, warning or error.
    log_level: str = "info"
    #: Log lines as JSON.
    log_json: bool = False
    #: The admin's password; made at random when empty.
    admin_password: str = ""
    #: The demo user's password; made at random when empty.
    demo_password: str = ""


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings: file, then environment, then the flags that are not None.

    Raises:
        Invalid: a setting is unknown or of the wrong type; the message says which and where.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values.update(tomllib.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise Invalid(f"{path} cannot be read: {error}") from error
    environ = os.environ if environ is None else environ
    for name in Settings.__struct_fields__:
        if (text := environ.get("XENITH_" + name.upper())) is not None:
            values[name] = text
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        where = f" (file {path})" if path else ""
        raise Invalid(f"a setting is wrong{where}: {error}") from error
