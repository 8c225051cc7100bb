"""What a VM is to be, as the compute service asks for it."""

from __future__ import annotations

import msgspec


class VmNic(msgspec.Struct, frozen=True):
    """One network interface; ``device`` is its position."""

    port_id: str
    network_id: str
    mac: str
    mtu: int
    device: int
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


class VmSpec(msgspec.Struct, frozen=True):
    """All that is needed to make a VM."""

    instance_id: str
    name: str
    hostname: str
    ram_mib: int
    vcpus: int
    #: 0 keeps the image's own size.
    root_gib: int
    image_id: str
    image_format: str
    image_size_bytes: int
    nics: tuple[VmNic, ...] = ()
    #: Keys below ``vm-data/`` that the guest may read.
    xenstore: dict[str, str] = {}
    #: 0 for none.
    swap_mib: int = 0
    ephemeral_gib: int = 0
    #: The bytes of the config drive.
    config_drive: bytes | None = None
