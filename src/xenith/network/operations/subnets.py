"""What can be done with subnets. Transaction functions."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network import addresses
from xenith.network.attributes import SUBNET
from xenith.network.operations.rows import (
    change_row,
    check_revision,
    enforce_attributes,
    owner_of,
    stamp_new,
)
from xenith.network.policies import enforce
from xenith.network.records import allocations, quotas
from xenith.network.records.allocations import IP_ALLOCATIONS
from xenith.network.records.networks import NETWORKS, get_visible_network, sees_all
from xenith.network.records.ports import PORTS
from xenith.network.records.subnets import SUBNETS

#: How guests come to addresses that nobody chose for them. Source: neutron `IPV6_MODES`.
SELF_MADE = ("slaac", "dhcpv6-stateless")


def is_self_made(subnet: Row) -> bool:
    """Tell whether guests make their addresses on a subnet from their MAC addresses."""
    return subnet.ipv6_address_mode in SELF_MADE or subnet.ipv6_ra_mode in SELF_MADE


def get_visible_subnet(tx: Tx, subnet_id: str, who: Principal) -> tuple[Row, Row]:
    """Get a subnet that a caller may know of, and its network.

    Raises:
        NotFound: there is none, or not for this caller.
    """
    row = tx.find(SUBNETS, id=subnet_id)
    if row is not None:
        network = tx.get(NETWORKS, id=row.network_id)
        own = who.project_id is not None and who.project_id in (row.project_id, network.project_id)
        if own or network.shared or network.external or sees_all(who):
            return row, network
    raise NotFound(f"Subnet {subnet_id[:64]} could not be found.", kind="SubnetNotFound")


def create_subnet(tx: Tx, who: Principal, values: Mapping[str, Any]) -> Row:
    """Make a subnet.

    Raises:
        Invalid: its addresses make no sense, or overlap another's on the network.
        Conflict: its pools overlap, or hold the gateway.
    """
    project_id = owner_of(who, values)
    network = get_visible_network(tx, values["network_id"], who)
    target = {"project_id": project_id, "network_project_id": network.project_id}
    enforce(who, "create_subnet", **target)
    enforce_attributes(who, "create", SUBNET, values, **target)
    cidr = _read_cidr(values)
    _check_modes(cidr, values)
    _refuse_overlap(tx, cidr, network)
    gateway = _read_gateway(cidr, values.get("gateway_ip", addresses.default_gateway(cidr)))
    asked = values.get("allocation_pools")
    if asked is None:
        pools = addresses.default_pools(cidr, gateway)
    else:
        pools = addresses.check_pools(cidr, [(pool.start, pool.end) for pool in asked])
        _refuse_gateway_in_pools(gateway, pools)
    quotas.claim(tx, project_id, "subnet")
    row = {
        **stamp_new(tx),
        "network_id": network.id,
        "project_id": project_id,
        "name": values["name"],
        "description": values["description"],
        "ip_version": cidr.version,
        "cidr": str(cidr),
        "gateway_ip": gateway,
        "enable_dhcp": values["enable_dhcp"],
        "ipv6_address_mode": values["ipv6_address_mode"],
        "ipv6_ra_mode": values["ipv6_ra_mode"],
        "pools": pools,
        "dns_nameservers": _read_servers(values["dns_nameservers"]),
        "host_routes": _read_routes(cidr, values["host_routes"]),
        "tags": [],
    }
    tx.insert(SUBNETS, row)
    made = tx.get(SUBNETS, id=row["id"])
    if is_self_made(made):
        _address_ports(tx, made)
    return made


def update_subnet(
    tx: Tx, who: Principal, subnet_id: str, values: Mapping[str, Any], *, revision: int | None
) -> Row:
    """Change a subnet. Addresses that ports have stay theirs, in the pools or not."""
    row, network = get_visible_subnet(tx, subnet_id, who)
    target = {"project_id": row.project_id, "network_project_id": network.project_id}
    enforce(who, "update_subnet", **target)
    enforce_attributes(who, "update", SUBNET, values, **target)
    check_revision(row, SUBNET, revision)
    cidr = ip_network(row.cidr)
    changed = {
        name: values[name] for name in ("name", "description", "enable_dhcp") if name in values
    }
    if "dns_nameservers" in values:
        changed["dns_nameservers"] = _read_servers(values["dns_nameservers"])
    if "host_routes" in values:
        changed["host_routes"] = _read_routes(cidr, values["host_routes"])
    if values.get("enable_dhcp") is False and (row.ipv6_address_mode or row.ipv6_ra_mode):
        raise Invalid(
            "Invalid input for operation: ipv6_ra_mode or ipv6_address_mode cannot be set when "
            "enable_dhcp is set to False.",
            kind="InvalidInput",
        )
    pools = row.pools
    if values.get("allocation_pools") is not None:
        asked = values["allocation_pools"]
        pools = addresses.check_pools(cidr, [(pool.start, pool.end) for pool in asked])
        changed["pools"] = pools
    gateway = row.gateway_ip
    if "gateway_ip" in values:
        gateway = _read_gateway(cidr, values["gateway_ip"])
        changed["gateway_ip"] = gateway
    if "pools" in changed or "gateway_ip" in changed:
        _refuse_gateway_in_pools(gateway, pools)
    change_row(tx, SUBNETS, row, changed)
    if "pools" in changed:
        allocations.begin_again(tx, row.id)
    return tx.get(SUBNETS, id=row.id)


def delete_subnet(tx: Tx, who: Principal, subnet_id: str, *, revision: int | None) -> None:
    """Delete a subnet. Addresses that guests made for themselves go with it.

    Raises:
        Conflict: ports have other addresses of it.
    """
    row, network = get_visible_subnet(tx, subnet_id, who)
    enforce(who, "delete_subnet", project_id=row.project_id, network_project_id=network.project_id)
    check_revision(row, SUBNET, revision)
    if not is_self_made(row):
        used = sa.select(IP_ALLOCATIONS.c.port_id).where(IP_ALLOCATIONS.c.subnet_id == row.id)
        if tx.scalar(used.limit(1)) is not None:
            raise Conflict(
                f"Unable to complete operation on subnet {row.id}: One or more ports have an IP "
                "allocation from this subnet.",
                kind="SubnetInUse",
            )
    allocations.forget_subnet(tx, row.id)
    tx.delete(SUBNETS, id=row.id)
    quotas.release(tx, row.project_id, "subnet")


def _read_cidr(values: Mapping[str, Any]) -> addresses.Network:
    if "cidr" not in values:
        raise Invalid("A cidr must be specified in the absence of a subnet pool", kind="BadRequest")
    cidr = addresses.read_network(values["cidr"], "cidr")
    if cidr.version != values["ip_version"]:
        raise Invalid(
            f"Invalid input for operation: The ip_version '{values['ip_version']}' doesn't match "
            f"cidr '{cidr}'.",
            kind="InvalidInput",
        )
    if cidr.prefixlen == 0 or cidr.is_multicast or cidr.is_loopback:
        raise Invalid(
            f"Invalid input for operation: '{cidr}' is no range of hosts' addresses.",
            kind="InvalidInput",
        )
    return cidr


def _check_modes(cidr: addresses.Network, values: Mapping[str, Any]) -> None:
    address_mode, ra_mode = values["ipv6_address_mode"], values["ipv6_ra_mode"]
    if not address_mode and not ra_mode:
        return
    if cidr.version == 4:
        name = "ipv6_address_mode" if address_mode else "ipv6_ra_mode"
        problem = f"{name} is not valid when ip_version is 4"
    elif not values["enable_dhcp"]:
        problem = "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False"
    elif address_mode and ra_mode and address_mode != ra_mode:
        problem = (
            f"ipv6_ra_mode set to '{ra_mode}' with ipv6_address_mode set to '{address_mode}' is "
            "not valid. If both attributes are set, they must be the same value"
        )
    elif (address_mode in SELF_MADE or ra_mode in SELF_MADE) and cidr.prefixlen != 64:
        problem = (
            f"Invalid CIDR {cidr} for IPv6 address mode. OpenStack uses the EUI-64 address format, "
            "which requires the prefix to be /64"
        )
    else:
        return
    raise Invalid(f"Invalid input for operation: {problem}.", kind="InvalidInput")


def _refuse_overlap(tx: Tx, cidr: addresses.Network, network: Row) -> None:
    for other in tx.list(SUBNETS, network_id=network.id):
        if other.ip_version == cidr.version and cidr.overlaps(ip_network(other.cidr)):
            raise Invalid(
                f"Invalid input for operation: Requested subnet with cidr: {cidr} for network: "
                f"{network.id} overlaps with another subnet.",
                kind="InvalidInput",
            )


def _read_gateway(cidr: addresses.Network, text: str | None) -> str | None:
    if text is None:
        return None
    gateway = addresses.read_address(text, "gateway_ip")
    first, last = addresses.host_range(cidr)
    # The lowest address of an IPv6 subnet is that of its routers. Source: RFC 4291, 2.6.1.
    is_edge = gateway in cidr and not (first <= gateway <= last or cidr.version == 6)  # type: ignore[operator]
    if gateway.version != cidr.version or is_edge:
        raise Invalid(
            "Invalid input for operation: Gateway is not valid on subnet.", kind="InvalidInput"
        )
    return str(gateway)


def _refuse_gateway_in_pools(gateway: str | None, pools: addresses.Pools) -> None:
    if gateway is None:
        return
    for first, last in pools:
        if addresses.is_in_pools([[first, last]], gateway):
            raise Conflict(
                f"Gateway ip {gateway} conflicts with allocation pool {first}-{last}.",
                kind="GatewayConflictWithAllocationPools",
            )


def _read_servers(asked: list[str] | None) -> list[str]:
    found = [str(addresses.read_address(text, "dns_nameservers")) for text in asked or ()]
    if len(set(found)) != len(found):
        raise Invalid("Invalid input for dns_nameservers. Reason: Duplicate nameserver.")
    return found


def _read_routes(cidr: addresses.Network, asked: Any) -> list[list[str]]:
    routes: list[list[str]] = []
    for route in asked or ():
        destination = addresses.read_network(route.destination, "host_routes")
        nexthop = addresses.read_address(route.nexthop, "host_routes")
        if not destination.version == nexthop.version == cidr.version:
            raise Invalid(
                "Invalid input for operation: a host route is not of its subnet's ip_version.",
                kind="InvalidInput",
            )
        routes.append([str(destination), str(nexthop)])
    return routes


def _address_ports(tx: Tx, subnet: Row) -> None:
    """Note the addresses that guests on the network will make on a new subnet."""
    cidr = ip_network(subnet.cidr)
    for port in tx.list(PORTS, network_id=subnet.network_id):
        address = addresses.address_from_mac(cidr, port.mac_address)
        number = len(tx.list(IP_ALLOCATIONS, port_id=port.id))
        allocations.give(tx, port.id, [(subnet.id, address)], first=number)
