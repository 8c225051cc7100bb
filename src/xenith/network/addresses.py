"""Arithmetic of addresses: subnets' ranges and pools, made addresses, MAC addresses.

Pure functions. Pools are pairs of texts as rows keep them; the *position* of an address is its
place among all addresses of a subnet's pools, counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from xenith.core.errors import Conflict, Invalid
from xenith.core.ids import Ids

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Pools = Sequence[Sequence[str]]

#: The first three octets of the MAC addresses made here. Source: neutron `base_mac`.
MAC_PREFIX = "fa:16:3e"
#: Positions that a cursor reaches; an IPv6 subnet has more addresses than a column has numbers.
POSITION_MAX = 2**62

_MAC = re.compile(r"^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$")


def read_address(text: str, what: str) -> Address:
    """Read an address; ``what`` names it in the refusal.

    Raises:
        Invalid: it is none.
    """
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    raise Invalid(f"Invalid input for {what}. Reason: '{text[:80]}' is not a valid IP address.")


def read_network(text: str, what: str) -> Network:
    """Read a range of addresses written as CIDR.

    Raises:
        Invalid: it is none, or has bits beyond its prefix.
    """
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "/" not in text or "%" in text:
        raise Invalid(f"Invalid input for {what}. Reason: '{text[:80]}' is not a valid IP subnet.")
    if str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise Invalid(
            f"Invalid input for {what}. Reason: '{text[:80]}' isn't a recognized IP subnet cidr, "
            f"'{network}' is recommended."
        )
    return network


def read_mac(text: str, what: str = "mac_address") -> str:
    """Read a MAC address, in lower case with colons.

    Raises:
        Invalid: it is none, or a group's.

    >>> read_mac("FA-16-3E-00-00-01")
    'fa:16:3e:00:00:01'
    """
    if not _MAC.fullmatch(text) or text.replace("-", ":") == "00:00:00:00:00:00":
        raise Invalid(
            f"Invalid input for {what}. Reason: '{text[:80]}' is not a valid MAC address."
        )
    return text.lower().replace("-", ":")


def make_mac(ids: Ids) -> str:
    """Make a MAC address by chance."""
    number = ids.below(1 << 24)
    return f"{MAC_PREFIX}:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def address_from_mac(network: Network, mac: str) -> str:
    """Make the address that a guest makes for itself. Source: RFC 4291, appendix A (EUI-64).

    >>> address_from_mac(ip_network("fd00::/64"), "fa:16:3e:00:00:01")
    'fd00::f816:3eff:fe00:1'
    """
    octets = bytes.fromhex(mac.replace(":", ""))
    made = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(network.network_address + int.from_bytes(made, "big"))


def host_range(network: Network) -> tuple[Address, Address]:
    """Give the first and last address that something may have.

    >>> host_range(ip_network("10.0.0.0/24"))
    (IPv4Address('10.0.0.1'), IPv4Address('10.0.0.254'))
    """
    first, last = network.network_address, network.broadcast_address
    if network.max_prefixlen - network.prefixlen < 2:
        return first, last
    # IPv6 has no broadcast address; its lowest is that of all routers.
    return first + 1, last - 1 if network.version == 4 else last


def default_gateway(network: Network) -> str:
    """Give the gateway of a subnet that names none: its first address."""
    return str(host_range(network)[0])


def default_pools(network: Network, gateway: str | None) -> list[list[str]]:
    """Give the pools of a subnet that names none: all but the gateway.

    >>> default_pools(ip_network("10.0.0.0/29"), "10.0.0.3")
    [['10.0.0.1', '10.0.0.2'], ['10.0.0.4', '10.0.0.6']]
    """
    first, last = host_range(network)
    middle = ip_address(gateway) if gateway is not None else None
    if middle is None or middle.version != network.version or not first <= middle <= last:  # type: ignore[operator]
        return [[str(first), str(last)]]
    pools = []
    if middle > first:  # type: ignore[operator]
        pools.append([str(first), str(middle - 1)])
    if middle < last:  # type: ignore[operator]
        pools.append([str(middle + 1), str(last)])
    return pools


def check_pools(network: Network, asked: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Check asked pools and put them in order.

    Raises:
        Invalid: one is no range, or not within the subnet.
        Conflict: two overlap.
    """
    bottom, top = host_range(network)
    ranges: list[tuple[int, int]] = []
    for start, end in asked:
        first, last = read_address(start, "allocation_pools"), read_address(end, "allocation_pools")
        if first.version != network.version or last.version != network.version or first > last:  # type: ignore[operator]
            raise Invalid(
                f"The allocation pool {start}-{end} is not valid.", kind="InvalidAllocationPool"
            )
        if first < bottom or last > top:  # type: ignore[operator]
            raise Invalid(
                f"The allocation pool {start}-{end} spans beyond the subnet cidr {network}.",
                kind="OutOfBoundsAllocationPool",
            )
        ranges.append((int(first), int(last)))
    ranges.sort()
    made = type(network.network_address)
    named = [[str(made(first)), str(made(last))] for first, last in ranges]
    for at in range(1, len(ranges)):
        if ranges[at][0] <= ranges[at - 1][1]:
            raise Conflict(
                f"Found overlapping allocation pools: {'-'.join(named[at - 1])}, "
                f"{'-'.join(named[at])} for subnet cidr {network}.",
                kind="OverlappingAllocationPools",
            )
    return named


@lru_cache(maxsize=4096)
def _range(first: str, last: str) -> tuple[int, int, type[Address]]:
    start = ip_address(first)
    return int(start), int(ip_address(last)), type(start)


def address_at(pools: Pools, position: int) -> str | None:
    """Give the address at a position, None when the pools have no more.

    >>> address_at([["10.0.0.1", "10.0.0.2"], ["10.0.0.4", "10.0.0.6"]], 2)
    '10.0.0.4'
    """
    if position >= POSITION_MAX:
        return None
    for pool in pools:
        first, last, made = _range(pool[0], pool[1])
        if position <= last - first:
            return str(made(first + position))
        position -= last - first + 1
    return None


def is_in_pools(pools: Pools, address: str) -> bool:
    """Tell whether an address is in one of the pools."""
    number = int(ip_address(address))
    for pool in pools:
        first, last, _ = _range(pool[0], pool[1])
        if first <= number <= last:
            return True
    return False


def count_addresses(pools: Pools) -> int:
    """Count the addresses of pools."""
    ranges = [_range(pool[0], pool[1]) for pool in pools]
    return sum(last - first + 1 for first, last, _ in ranges)
