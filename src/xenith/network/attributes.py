"""What networks, subnets and ports are made of on the wire, as one table a noun.

From a table come the structs that check bodies, their schemas in the OpenAPI document, and the
filters and sort keys of lists. ``read_new`` and ``read_change`` give values by column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.http.validation import convert
from xenith.network.records.networks import NETWORKS
from xenith.network.records.ports import PORTS
from xenith.network.records.subnets import SUBNETS

#: A name that a body must give.
REQUIRED = msgspec.NODEFAULT
UNSET = msgspec.UNSET
UNSET_TYPE: Any = msgspec.UnsetType

#: Booleans in the forms that neutron takes.
Boolean = bool | Literal["true", "True", "TRUE", "false", "False", "FALSE", "1", "0", 1, 0]
Name = Annotated[str, msgspec.Meta(max_length=255)]
Text = Annotated[str, msgspec.Meta(max_length=255)]
Id = Annotated[str, msgspec.Meta(max_length=36)]
AddressText = Annotated[str, msgspec.Meta(max_length=64)]
Mode = Literal["slaac", "dhcpv6-stateful", "dhcpv6-stateless"]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Mtu = Annotated[int, msgspec.Meta(ge=0, le=65535)]
SegmentationId = Annotated[int, msgspec.Meta(ge=0, le=2**24 - 1)]
Names = Annotated[list[Name], msgspec.Meta(max_length=64)]


class AllocationPool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of addresses, both ends included."""

    start: AddressText
    end: AddressText


class HostRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A route that guests are told."""

    destination: AddressText
    nexthop: AddressText


class FixedIp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address that a port asks for: on a subnet, by name, or both."""

    subnet_id: Id | None = None
    ip_address: AddressText | None = None


class AddressPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another address under which a port may send."""

    ip_address: AddressText
    mac_address: AddressText | None = None


class DhcpOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An option that a port's DHCP answers carry."""

    opt_name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    opt_value: Text | None = None
    ip_version: Literal[4, 6] = 4


Pools = Annotated[list[AllocationPool], msgspec.Meta(max_length=100)]
Routes = Annotated[list[HostRoute], msgspec.Meta(max_length=20)]
Servers = Annotated[list[AddressText], msgspec.Meta(max_length=5)]
FixedIps = Annotated[list[FixedIp], msgspec.Meta(max_length=100)]
Pairs = Annotated[list[AddressPair], msgspec.Meta(max_length=10)]
Options = Annotated[list[DhcpOption], msgspec.Meta(max_length=50)]
Profile = Annotated[dict[str, Any], msgspec.Meta(max_length=32)]
Tags = Annotated[list[Tag], msgspec.Meta(max_length=50)]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its name on the wire, its type, and where a body may give it."""

    name: str
    type: Any
    #: Its value when a new thing's body leaves it out; UNSET leaves it to the operation.
    default: Any = UNSET
    post: bool = True
    put: bool = True
    #: The column that lists filter and sort by; the name when empty, none for "-".
    column: str = ""

    @property
    def key(self) -> str:
        """The name under which values are passed on."""
        return self.column if self.column not in ("", "-") else self.name


@dataclass(frozen=True)
class Noun:
    """A kind of thing with its attributes."""

    name: str
    table: sa.Table
    attributes: tuple[Attribute, ...]
    #: Filters of lists that are no columns.
    other_filters: tuple[str, ...] = ()
    plural: str = ""
    new: type[Any] = field(init=False)
    change: type[Any] = field(init=False)
    post_body: type[Any] = field(init=False)
    put_body: type[Any] = field(init=False)
    columns: Mapping[str, sa.Column[Any]] = field(init=False)

    def __post_init__(self) -> None:
        title = self.name.title()
        settings: list[tuple[str, Any]] = [
            ("plural", self.name + "s"),
            ("new", _struct(f"New{title}", self.attributes, is_new=True)),
            ("change", _struct(f"{title}Change", self.attributes, is_new=False)),
            (
                "columns",
                {
                    attribute.name: self.table.c[attribute.key]
                    for attribute in self.attributes
                    if attribute.column != "-" and attribute.key in self.table.c
                },
            ),
        ]
        for name, value in settings:
            object.__setattr__(self, name, value)
        one: Any = _open(self.new)
        many: Any = Annotated[list[one], msgspec.Meta(max_length=1000)]
        change: Any = _open(self.change)
        post_body = [(self.name, one | UNSET_TYPE, UNSET), (self.plural, many | UNSET_TYPE, UNSET)]
        put_body = [(self.name, change | UNSET_TYPE, UNSET)]
        post = msgspec.defstruct(f"{title}sBody", post_body, frozen=True)
        put = msgspec.defstruct(f"{title}Body", put_body, frozen=True)
        object.__setattr__(self, "post_body", post)
        object.__setattr__(self, "put_body", put)

    @property
    def filters(self) -> frozenset[str]:
        """Names that a list's query string may filter by."""
        return frozenset(self.columns) | frozenset(self.other_filters)

    def read_new(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Check a new thing's attributes and give their values, with defaults.

        Raises:
            Invalid: one is unknown or of the wrong form.
        """
        values = self._read(body, self.new, is_new=True)
        for attribute in self.attributes:
            if attribute.post and attribute.default not in (UNSET, REQUIRED):
                values.setdefault(attribute.key, attribute.default)
        return values

    def read_change(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Check changed attributes and give their values.

        Raises:
            Invalid: one is unknown, cannot be changed, or is of the wrong form.
        """
        return self._read(body, self.change, is_new=False)

    def _read(self, body: Mapping[str, Any], struct: type[Any], *, is_new: bool) -> dict[str, Any]:
        allowed = {
            attribute.name
            for attribute in self.attributes
            if (attribute.post if is_new else attribute.put)
        }
        known = {attribute.name for attribute in self.attributes} | set(READ_ONLY)
        if unknown := sorted(name for name in body if name not in allowed and name not in known):
            names = ", ".join(repr(name[:64]) for name in unknown)
            raise Invalid(f"Unrecognized attribute(s) {names}", kind="HTTPBadRequest")
        if barred := sorted(name for name in body if name not in allowed):
            what = (
                "Attribute '{}' not allowed in POST"
                if is_new
                else "Cannot update read-only attribute {}"
            )
            raise Invalid(what.format(barred[0]), kind="HTTPBadRequest")
        if "tenant_id" in body and body.get("project_id", body["tenant_id"]) != body["tenant_id"]:
            raise Invalid("'project_id' and 'tenant_id' do not match", kind="HTTPBadRequest")
        read = convert(dict(body), struct)
        values: dict[str, Any] = {}
        for attribute in self.attributes:
            if attribute.name in body and attribute.name in allowed:
                value = getattr(read, _field(attribute.name))
                values[attribute.key] = _plain(value, attribute.type)
        return values


#: What every thing has and nobody writes.
READ_ONLY = (
    "id",
    "status",
    "subnets",
    "tags",
    "revision_number",
    "created_at",
    "updated_at",
    "availability_zones",
    "ipv4_address_scope",
    "ipv6_address_scope",
    "l2_adjacency",
    "ip_allocation",
    "binding:vif_type",
    "binding:vif_details",
    "router:external",
)


def read_boolean(value: Any) -> bool:
    """Give the truth of one of the forms of ``Boolean``."""
    return value in (True, "true", "True", "TRUE", "1")


def _plain(value: Any, kind: Any) -> Any:
    return read_boolean(value) if kind is Boolean else value


def _field(name: str) -> str:
    return name.replace(":", "_")


def _struct(name: str, attributes: tuple[Attribute, ...], *, is_new: bool) -> type[Any]:
    fields: list[Any] = []
    for attribute in attributes:
        if not (attribute.post if is_new else attribute.put):
            continue
        if is_new and attribute.default is REQUIRED:
            fields.append(
                (_field(attribute.name), attribute.type, msgspec.field(name=attribute.name))
            )
        else:
            fields.append(
                (
                    _field(attribute.name),
                    attribute.type | msgspec.UnsetType,
                    msgspec.field(default=UNSET, name=attribute.name),
                )
            )
    return msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


def _open(struct: type[Any]) -> Any:
    """Give a type that takes any object, and is described as ``struct``.

    The handler checks it, since what is wrong must be said in neutron's words.
    """
    return Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_inline(struct))]


def _inline(struct: type[Any]) -> dict[str, Any]:
    schema = msgspec.json.schema(struct)
    definitions = schema["$defs"]

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolve(definitions[value["$ref"].rpartition("/")[2]])
            return {key: resolve(item) for key, item in value.items()}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve({"$ref": schema["$ref"]})
    return resolved


_OWNED = (
    Attribute("id", Id, post=False, put=False),
    Attribute("name", Name, ""),
    Attribute("description", Text, ""),
    Attribute("project_id", Name, put=False),
    Attribute("tenant_id", Name, put=False, column="project_id"),
    Attribute("revision_number", int, post=False, put=False),
)

NETWORK = Noun(
    "network",
    NETWORKS,
    (
        *_OWNED,
        Attribute("status", Text, post=False, put=False),
        Attribute("admin_state_up", Boolean, True),
        Attribute("shared", Boolean, False),
        Attribute("router:external", Boolean, False, column="external"),
        Attribute("is_default", Boolean, False),
        Attribute("mtu", Mtu, 1500),
        Attribute("port_security_enabled", Boolean, True),
        Attribute("availability_zone_hints", Names, [], put=False, column="-"),
        Attribute("provider:network_type", Text | None, None, put=False, column="network_type"),
        Attribute(
            "provider:physical_network", Text | None, None, put=False, column="physical_network"
        ),
        Attribute(
            "provider:segmentation_id",
            SegmentationId | None,
            None,
            put=False,
            column="segmentation_id",
        ),
    ),
)

SUBNET = Noun(
    "subnet",
    SUBNETS,
    (
        *_OWNED,
        Attribute("network_id", Id, REQUIRED, put=False),
        Attribute("ip_version", Literal[4, 6], REQUIRED, put=False),
        Attribute("cidr", AddressText, put=False),
        Attribute("gateway_ip", AddressText | None),
        Attribute("allocation_pools", Pools | None, column="-"),
        Attribute("dns_nameservers", Servers | None, [], column="-"),
        Attribute("host_routes", Routes | None, [], column="-"),
        Attribute("enable_dhcp", Boolean, True),
        Attribute("ipv6_address_mode", Mode | None, None, put=False),
        Attribute("ipv6_ra_mode", Mode | None, None, put=False),
    ),
    other_filters=("shared", "router:external"),
)

PORT = Noun(
    "port",
    PORTS,
    (
        *_OWNED,
        Attribute("network_id", Id, REQUIRED, put=False),
        Attribute("status", Text, post=False, put=False),
        Attribute("admin_state_up", Boolean, True),
        Attribute("mac_address", AddressText | None),
        Attribute("fixed_ips", FixedIps | None, column="-"),
        Attribute("device_id", Text | None, ""),
        Attribute("device_owner", Text | None, ""),
        Attribute("binding:host_id", Text | None, "", column="host_id"),
        Attribute("binding:vnic_type", Literal["normal"], "normal", column="vnic_type"),
        Attribute("binding:profile", Profile | None, None, column="-"),
        Attribute("allowed_address_pairs", Pairs | None, None, column="-"),
        Attribute("security_groups", Names | None, [], column="-"),
        Attribute("extra_dhcp_opts", Options | None, None, column="-"),
        Attribute("port_security_enabled", Boolean),
    ),
    other_filters=("fixed_ips", "security_groups", "ip_address", "subnet_id"),
)
