"""Bodies about servers: create, update, actions. Source: Compute API, "Servers"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from xenith.compute.schemas.types import Count, Metadata, Name, Tag, Text, Uuid
from xenith.core.limits import SERVER_TAGS_MAX
from xenith.http.versioned import REQUIRED, Field, versioned

DiskConfig = Literal["AUTO", "MANUAL"]
#: Booleans come as words too. Source: nova's parameter type `boolean`.
Boolean = (
    bool
    | Literal[
        "True",
        "TRUE",
        "true",
        "1",
        "ON",
        "On",
        "on",
        "YES",
        "Yes",
        "yes",
        "False",
        "FALSE",
        "false",
        "0",
        "OFF",
        "Off",
        "off",
        "NO",
        "No",
        "no",
    ]
)
Address = Annotated[str, msgspec.Meta(max_length=64)]
HostName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9-]*[a-zA-Z0-9]$")
]
DomainName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9-_.]*[a-zA-Z0-9]$")
]
CountOf = (
    Annotated[int, msgspec.Meta(ge=1, le=1000)]
    | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}$")]
)


def is_true(value: Any) -> bool:
    """Read a boolean or one of the words for it."""
    return str(value).lower() in ("true", "1", "on", "yes")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file to be put into the server: a path and its contents in base64."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    contents: str


class SecurityGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security group by name or id."""

    name: Text


class BlockDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk of the new server. Source: Compute API, `block_device_mapping_v2`."""

    boot_index: int | str | None = None
    uuid: str | None = None
    source_type: Literal["volume", "image", "snapshot", "blank"] | None = None
    destination_type: Literal["local", "volume"] | None = None
    volume_size: int | str | None = None
    volume_type: Text | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    image_id: str | None = None
    delete_on_termination: Boolean = False
    device_name: Text | None = None
    device_type: Text | None = None
    disk_bus: Text | None = None
    guest_format: Text | None = None
    no_device: Boolean | str | None = None
    tag: str | None = None


class Nic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One interface of the new server."""

    uuid: Uuid | None = None
    port: Uuid | None = None
    fixed_ip: Address | None = None
    tag: Tag | None = None


_Nics = Annotated[list[Nic], msgspec.Meta(max_length=100)]
_NicsOrWord = _Nics | Literal["auto", "none"]
_Tags = Annotated[list[Tag], msgspec.Meta(max_length=SERVER_TAGS_MAX)]
_Uuids = Uuid | list[Uuid]


class Hints(msgspec.Struct, frozen=True):
    """Scheduler hints; unknown ones are let through, as upstream does."""

    group: Uuid | msgspec.UnsetType = msgspec.UNSET
    different_host: _Uuids | msgspec.UnsetType = msgspec.UNSET
    same_host: _Uuids | msgspec.UnsetType = msgspec.UNSET
    query: Any = msgspec.UNSET
    target_cell: Any = msgspec.UNSET
    different_cell: Any = msgspec.UNSET
    build_near_host_ip: Any = msgspec.UNSET
    cidr: Any = msgspec.UNSET


CREATE_SERVER = versioned(
    "CreateServer",
    [
        Field("name", Name, default=REQUIRED),
        Field(
            "flavorRef",
            Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | int,
            "flavor_ref",
            default=REQUIRED,
        ),
        Field("imageRef", Annotated[str, msgspec.Meta(max_length=1024)] | None, "image_ref"),
        Field("adminPass", Annotated[str, msgspec.Meta(max_length=255)], "admin_pass"),
        Field("metadata", Metadata),
        Field("networks", _Nics | None, "nics", until=(2, 36)),
        Field("networks", _NicsOrWord, "nics", since=(2, 37), default=REQUIRED),
        Field("OS-DCF:diskConfig", DiskConfig, "disk_config"),
        Field("accessIPv4", Address | None, "access_ipv4"),
        Field("accessIPv6", Address | None, "access_ipv6"),
        Field("personality", Annotated[list[File], msgspec.Meta(max_length=5)], until=(2, 56)),
        Field("availability_zone", Name | None),
        Field("block_device_mapping", list[BlockDevice] | None),
        Field("block_device_mapping_v2", list[BlockDevice] | None),
        Field("config_drive", Boolean | None),
        Field("key_name", Name | None),
        Field("min_count", CountOf),
        Field("max_count", CountOf),
        Field("return_reservation_id", Boolean),
        Field("security_groups", list[SecurityGroup]),
        Field("user_data", str | None),
        Field("description", Text | None, since=(2, 19)),
        Field("tags", _Tags, since=(2, 52)),
        Field(
            "trusted_image_certificates",
            Annotated[list[str], msgspec.Meta(max_length=50)] | None,
            since=(2, 63),
        ),
        Field("host", HostName, since=(2, 74)),
        Field("hypervisor_hostname", HostName, since=(2, 74)),
        Field("hostname", HostName, since=(2, 90), until=(2, 93)),
        Field("hostname", DomainName, since=(2, 94)),
    ],
    envelope="server",
    beside=[
        Field("os:scheduler_hints", Hints, "hints"),
        Field("OS-SCH-HNT:scheduler_hints", Hints, "old_hints"),
    ],
)

UPDATE_SERVER = versioned(
    "UpdateServer",
    [
        Field("name", Name),
        Field("OS-DCF:diskConfig", DiskConfig, "disk_config"),
        Field("accessIPv4", Address | None, "access_ipv4"),
        Field("accessIPv6", Address | None, "access_ipv6"),
        Field("description", Text | None, since=(2, 19)),
        Field("hostname", HostName, since=(2, 90), until=(2, 93)),
        Field("hostname", DomainName, since=(2, 94)),
    ],
    envelope="server",
)


REBUILD_SERVER = versioned(
    "RebuildServer",
    [
        Field(
            "imageRef",
            Annotated[str, msgspec.Meta(min_length=1, max_length=1024)],
            "image_ref",
            default=REQUIRED,
        ),
        Field("name", Name),
        Field("adminPass", Annotated[str, msgspec.Meta(max_length=255)], "admin_pass"),
        Field("metadata", Metadata),
        # Taken and not heeded: no driver for virtual machines ever kept them.
        Field("preserve_ephemeral", Boolean),
        Field("OS-DCF:diskConfig", DiskConfig, "disk_config"),
        Field("accessIPv4", Address | None, "access_ipv4"),
        Field("accessIPv6", Address | None, "access_ipv6"),
        Field("personality", Annotated[list[File], msgspec.Meta(max_length=5)], until=(2, 56)),
        Field("description", Text | None, since=(2, 19)),
        Field("key_name", Name | None, since=(2, 54)),
        Field("user_data", str | None, since=(2, 57)),
        Field(
            "trusted_image_certificates",
            Annotated[list[str], msgspec.Meta(max_length=50)] | None,
            since=(2, 63),
        ),
        Field("hostname", HostName, since=(2, 90), until=(2, 93)),
        Field("hostname", DomainName, since=(2, 94)),
    ],
)


class Reboot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `reboot`."""

    type: Literal["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]


class Rescue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `rescue`, which may be null."""

    admin_pass: Annotated[str, msgspec.Meta(max_length=255)] | msgspec.UnsetType = msgspec.field(
        name="adminPass", default=msgspec.UNSET
    )
    rescue_image_ref: Uuid | msgspec.UnsetType = msgspec.UNSET


class Resize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `resize`."""

    flavor_ref: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | int = msgspec.field(
        name="flavorRef"
    )
    disk_config: DiskConfig | msgspec.UnsetType = msgspec.field(
        name="OS-DCF:diskConfig", default=msgspec.UNSET
    )


class CreateImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `createImage`."""

    name: Name
    metadata: Metadata = {}


class CreateBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `createBackup`."""

    name: Name
    backup_type: Text
    rotation: Count | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}$")]
    metadata: Metadata = {}


class ConsoleOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `os-getConsoleOutput`; -1 and null are the whole log."""

    length: (
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
        | Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,9}$")]
        | None
    ) = None


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `lock` from 2.73 on."""

    locked_reason: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class ResetState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `os-resetState`."""

    state: Literal["active", "error"]


class MetadataBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a server's metadata."""

    metadata: Metadata


class MetaBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item of a server's metadata."""

    meta: Annotated[Metadata, msgspec.Meta(min_length=1, max_length=1)]


class TagsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a server's tags."""

    tags: _Tags
