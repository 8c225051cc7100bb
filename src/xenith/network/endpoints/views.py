"""Networks, subnets and ports as clients see them.

What a policy hides from a caller (``get_port:binding:host_id``) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xenith.core.clock import iso_seconds
from xenith.db import Row
from xenith.http import Principal
from xenith.network.policies import POLICIES, allows

#: What guards an attribute that not everyone is shown, by noun and name.
_GUARDS = {
    noun: {
        rule.partition(":")[2]: rule
        for rule in POLICIES
        if rule.startswith(f"get_{noun}:") and not rule.endswith(":tags")
    }
    for noun in ("network", "subnet", "port")
}


class View:
    """How one caller sees things of one noun; made once a request."""

    def __init__(self, who: Principal, noun: str, fields: Sequence[str] = ()) -> None:
        hidden = {name for name, rule in _GUARDS[noun].items() if not allows(who, rule)}
        self._hidden = hidden
        self._fields = frozenset(fields)

    def hides(self, name: str) -> bool:
        """Tell whether an attribute is kept from the caller."""
        return name in self._hidden

    def of(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Give what of a thing is shown."""
        return {
            name: value
            for name, value in body.items()
            if name not in self._hidden and (not self._fields or name in self._fields)
        }


def _shared(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "tags": row.tags or [],
        "revision_number": row.revision_number,
        "created_at": iso_seconds(row.created_at),
        "updated_at": iso_seconds(row.updated_at),
    }


def network_body(row: Row, subnet_ids: Sequence[str]) -> dict[str, Any]:
    """Give all of a network."""
    body = {
        **_shared(row),
        "admin_state_up": row.admin_state_up,
        "status": row.status,
        "subnets": list(subnet_ids),
        "shared": row.shared,
        "router:external": row.external,
        "mtu": row.mtu,
        "port_security_enabled": row.port_security_enabled,
        "availability_zone_hints": row.availability_zone_hints,
        "availability_zones": ["nova"] if subnet_ids else [],
        "ipv4_address_scope": None,
        "ipv6_address_scope": None,
        "provider:network_type": row.network_type,
        "provider:physical_network": row.physical_network,
        "provider:segmentation_id": row.segmentation_id,
    }
    if row.external:
        body["is_default"] = row.is_default
    return body


def subnet_body(row: Row) -> dict[str, Any]:
    """Give all of a subnet."""
    return {
        **_shared(row),
        "network_id": row.network_id,
        "ip_version": row.ip_version,
        "cidr": row.cidr,
        "gateway_ip": row.gateway_ip,
        "allocation_pools": [{"start": pool[0], "end": pool[1]} for pool in row.pools],
        "dns_nameservers": row.dns_nameservers,
        "host_routes": [
            {"destination": route[0], "nexthop": route[1]} for route in row.host_routes
        ],
        "enable_dhcp": row.enable_dhcp,
        "ipv6_address_mode": row.ipv6_address_mode,
        "ipv6_ra_mode": row.ipv6_ra_mode,
        "subnetpool_id": None,
    }


def port_body(row: Row, addresses: Sequence[Row]) -> dict[str, Any]:
    """Give all of a port."""
    return {
        **_shared(row),
        "network_id": row.network_id,
        "admin_state_up": row.admin_state_up,
        "status": row.status,
        "mac_address": row.mac_address,
        "fixed_ips": [
            {"subnet_id": address.subnet_id, "ip_address": address.address} for address in addresses
        ],
        "device_id": row.device_id,
        "device_owner": row.device_owner,
        "allowed_address_pairs": [
            {
                "ip_address": pair["ip_address"],
                "mac_address": pair["mac_address"] or row.mac_address,
            }
            for pair in row.allowed_address_pairs or ()
        ],
        "security_groups": [],
        "extra_dhcp_opts": row.extra_dhcp_opts or [],
        "port_security_enabled": row.port_security_enabled,
        "binding:host_id": row.host_id,
        "binding:vnic_type": row.vnic_type,
        "binding:profile": row.profile or {},
        "binding:vif_type": "bridge" if row.host_id else "unbound",
        "binding:vif_details": {"port_filter": False} if row.host_id else {},
    }
