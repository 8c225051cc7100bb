"""Which addresses a port gets: those that it asks for, or the next free ones.

A port that asks for nothing gets one IPv4 address, one IPv6 address of a subnet that gives them
out, and one on each subnet where guests make their own. Source: neutron's `ipam_backend_mixin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from xenith.core.errors import Conflict, Invalid
from xenith.db import Row, Tx
from xenith.network import addresses
from xenith.network.operations.subnets import is_self_made
from xenith.network.records import allocations
from xenith.network.records.subnets import SUBNETS

#: Source: neutron `max_fixed_ips_per_port`.
FIXED_IPS_MAX = 5

Chosen = list[tuple[str, str]]


def choose(
    tx: Tx, subnets: Sequence[Row], asked: Sequence[Any] | None, *, mac: str, network_id: str
) -> Chosen:
    """Choose free addresses, as pairs of subnet and address; ``asked`` None takes what there is.

    Raises:
        Invalid: what is asked for does not fit the network.
        Conflict: what is asked for is taken, or nothing is left.
    """
    if asked is None:
        return _choose_any(tx, subnets, mac=mac, network_id=network_id)
    if len(asked) > FIXED_IPS_MAX:
        raise _invalid("Exceeded maximum amount of fixed ips per port")
    chosen: Chosen = []
    # Those asked for by name first, so that none of them is given to the others.
    for ip in sorted(asked, key=lambda ip: ip.ip_address is None):
        chosen.append(_choose_asked(tx, subnets, ip, chosen, mac=mac, network_id=network_id))
    return chosen


def replace(tx: Tx, port: Row, asked: Sequence[Any], *, mac: str) -> None:
    """Give a port other addresses; those that it keeps stay as they are."""
    subnets = tx.list(SUBNETS, network_id=port.network_id)
    kept: Chosen = []
    wanted: list[Any] = []
    had = allocations.addresses_of(tx, port.id)
    left = {(row.subnet_id, row.address): row for row in had}
    for ip in asked:
        match = next((key for key in left if _matches(key, ip)), None)
        if match is None:
            wanted.append(ip)
        else:
            del left[match]
            kept.append(match)
    if len(asked) > FIXED_IPS_MAX:
        raise _invalid("Exceeded maximum amount of fixed ips per port")
    allocations.take_back(tx, list(left.values()))
    chosen = choose(tx, subnets, wanted, mac=mac, network_id=port.network_id)
    number = max((row.number for row in had), default=-1) + 1
    allocations.give(tx, port.id, chosen, first=number)


def _matches(key: tuple[str, str], ip: Any) -> bool:
    subnet_id, address = key
    if ip.ip_address is not None:
        same = str(addresses.read_address(ip.ip_address, "fixed_ips")) == address
        return same and ip.subnet_id in (None, subnet_id)
    return bool(ip.subnet_id == subnet_id)


def _choose_any(tx: Tx, subnets: Sequence[Row], *, mac: str, network_id: str) -> Chosen:
    chosen: Chosen = []
    for version in (4, 6):
        given = [
            subnet
            for subnet in subnets
            if subnet.ip_version == version and not is_self_made(subnet)
        ]
        for subnet in given:
            address = allocations.find_free(tx, subnet)
            if address is not None:
                chosen.append((subnet.id, address))
                break
        else:
            if given:
                raise _exhausted(network_id)
    for subnet in subnets:
        if is_self_made(subnet):
            chosen.append((subnet.id, addresses.address_from_mac(ip_network(subnet.cidr), mac)))
    return chosen


def _choose_asked(
    tx: Tx, subnets: Sequence[Row], ip: Any, chosen: Chosen, *, mac: str, network_id: str
) -> tuple[str, str]:
    if ip.subnet_id is None and ip.ip_address is None:
        raise _invalid("IP allocation requires subnet_id or ip_address")
    if ip.subnet_id is None:
        subnet = _subnet_of(subnets, ip.ip_address)
    else:
        subnet = next((subnet for subnet in subnets if subnet.id == ip.subnet_id), None)
        if subnet is None:
            raise _invalid(
                f"Failed to create port on network {network_id}, because fixed_ips included "
                f"invalid subnet {ip.subnet_id}"
            )
    if ip.ip_address is None:
        return subnet.id, _next_of(tx, subnet, chosen, mac=mac, network_id=network_id)
    address = _asked_address(subnet, ip.ip_address, mac)
    if (subnet.id, address) in chosen or allocations.is_taken(tx, subnet.id, address):
        raise Conflict(
            f"IP address {address} already allocated in subnet {subnet.id}",
            kind="IpAddressAlreadyAllocated",
        )
    return subnet.id, address


def _next_of(tx: Tx, subnet: Row, chosen: Chosen, *, mac: str, network_id: str) -> str:
    if is_self_made(subnet):
        return addresses.address_from_mac(ip_network(subnet.cidr), mac)
    while True:
        address = allocations.find_free(tx, subnet)
        if address is None:
            raise _exhausted(network_id)
        # One that this port has just chosen by name has no row yet.
        if (subnet.id, address) not in chosen:
            return address


def _subnet_of(subnets: Sequence[Row], text: str) -> Row:
    address = addresses.read_address(text, "fixed_ips")
    for subnet in subnets:
        if address in ip_network(subnet.cidr):
            return subnet
    raise Invalid(
        f"IP address {text} is not a valid IP for any of the subnets on the specified network.",
        kind="InvalidIpForNetwork",
    )


def _asked_address(subnet: Row, text: str, mac: str) -> str:
    address = addresses.read_address(text, "fixed_ips")
    cidr = ip_network(subnet.cidr)
    first, last = addresses.host_range(cidr)
    if address.version != cidr.version or not first <= address <= last:  # type: ignore[operator]
        raise Invalid(
            f"IP address {text} is not a valid IP for the specified subnet.",
            kind="InvalidIpForSubnet",
        )
    if is_self_made(subnet) and str(address) != addresses.address_from_mac(cidr, mac):
        raise Invalid(
            f"IPv6 address {text} can not be directly assigned to a port on subnet {subnet.id} "
            "since the subnet is configured for automatic addresses",
            kind="AllocationOnAutoAddressSubnet",
        )
    return str(address)


def _exhausted(network_id: str) -> Conflict:
    return Conflict(
        f"No more IP addresses available on network {network_id}.",
        kind="IpAddressGenerationFailure",
    )


def _invalid(problem: str) -> Invalid:
    return Invalid(f"Invalid input for operation: {problem}.", kind="InvalidInput")
