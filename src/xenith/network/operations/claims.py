"""Ports for servers: what compute asks of networks, inside its own transactions.

Two kinds of port serve a server: *ours*, made for it and deleted with it, and those that its owner
had made before and gets back. All of this is repeatable but ``claim_ports``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Conflict, Forbidden, Invalid
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network.attributes import FixedIp
from xenith.network.operations import fixed_ips
from xenith.network.operations.ports import draw_mac, insert_port
from xenith.network.records import allocations, quotas
from xenith.network.records.networks import NETWORKS, find_visible_network
from xenith.network.records.ports import PORTS
from xenith.network.records.subnets import SUBNETS


class NicRequest(Protocol):
    """One interface that a server asks for."""

    @property
    def network_id(self) -> str | None: ...  # noqa: D102
    @property
    def port_id(self) -> str | None: ...  # noqa: D102
    @property
    def address(self) -> str | None: ...  # noqa: D102
    @property
    def tag(self) -> str | None: ...  # noqa: D102


class FixedAddress(msgspec.Struct, frozen=True):
    """One address of a port, with what a guest must know to use it."""

    subnet_id: str
    address: str
    version: int
    prefix_length: int
    gateway: str | None
    dns: tuple[str, ...]
    routes: tuple[tuple[str, str], ...]


class PortInfo(msgspec.Struct, frozen=True):
    """A port of a server."""

    id: str
    network_id: str
    network_name: str
    mac: str
    mtu: int
    addresses: tuple[FixedAddress, ...]
    is_ours: bool
    tag: str | None


class _Any(msgspec.Struct, frozen=True):
    """The request that ``auto`` comes to."""

    network_id: str | None
    port_id: str | None = None
    address: str | None = None
    tag: str | None = None


def claim_ports(
    tx: Tx,
    who: Principal,
    *,
    instance_id: str,
    zone: str,
    requests: Sequence[NicRequest] | None,
) -> list[PortInfo]:
    """Give a server its ports, in the order of its requests.

    Raises:
        Invalid: a network or port is not there for the caller, or an address does not fit.
        Conflict: a port is in use, an address taken or none left, or ``auto`` has a choice.
        Forbidden: a network leads outside, and the caller is no admin.
        Exhausted: the project has as many ports as it may.
    """
    if requests is None:
        requests = _only_network(tx, who)
    count = sum(1 for request in requests if request.port_id is None)
    if count:
        quotas.claim(tx, who.project, "port", count=count)
    owner = f"compute:{zone}"
    claimed: list[PortInfo] = []
    for number, request in enumerate(requests):
        take = _make if request.port_id is None else _take
        claimed.append(take(tx, who, request, instance_id, owner, number))
    return claimed


def bind_ports(tx: Tx, *, instance_id: str, host: str) -> None:
    """Say that a server's ports are up on a host."""
    for port in tx.list(PORTS, device_id=instance_id):
        if port.host_id != host or port.status != "ACTIVE":
            _change(tx, port, host_id=host, status="ACTIVE")


def release_ports(tx: Tx, *, instance_id: str) -> None:
    """Delete a server's own ports and let go of those that it was given."""
    ours: dict[str, int] = {}
    for port in tx.list(PORTS, device_id=instance_id):
        if not port.is_ours:
            _change(
                tx,
                port,
                device_id="",
                device_owner="",
                host_id="",
                status="DOWN",
                nic_tag=None,
                nic_number=0,
            )
            continue
        allocations.take_back(tx, tx.list(allocations.IP_ALLOCATIONS, port_id=port.id))
        tx.delete(PORTS, id=port.id)
        ours[port.project_id] = ours.get(port.project_id, 0) + 1
    for project_id, count in ours.items():
        quotas.release(tx, project_id, "port", count=count)


def list_ports(tx: Tx, *, instance_ids: Sequence[str]) -> dict[str, list[PortInfo]]:
    """List the ports of servers, by server, in the order of their interfaces."""
    found: dict[str, list[PortInfo]] = {instance_id: [] for instance_id in instance_ids}
    if not instance_ids:
        return found
    columns = PORTS.c
    ports = tx.all(
        sa.select(PORTS, NETWORKS.c.name.label("network_name"), NETWORKS.c.mtu.label("mtu"))
        .join(NETWORKS, NETWORKS.c.id == columns.network_id)
        .where(columns.device_id.in_(instance_ids))
        .order_by(columns.nic_number, columns.id)
    )
    by_port = allocations.addresses_of_many(tx, [port.id for port in ports])
    wanted = {row.subnet_id for rows in by_port.values() for row in rows}
    subnets = (
        {row.id: row for row in tx.all(sa.select(SUBNETS).where(SUBNETS.c.id.in_(wanted)))}
        if wanted
        else {}
    )
    for port in ports:
        pairs = [(row.subnet_id, row.address) for row in by_port[port.id]]
        found[port.device_id].append(
            PortInfo(
                id=port.id,
                network_id=port.network_id,
                network_name=port.network_name,
                mac=port.mac_address,
                mtu=port.mtu,
                addresses=_addresses(pairs, subnets),
                is_ours=port.is_ours,
                tag=port.nic_tag,
            )
        )
    return found


def _only_network(tx: Tx, who: Principal) -> list[NicRequest]:
    own = tx.list(NETWORKS, project_id=who.project)
    networks = {row.id: row for row in own}
    networks |= {row.id: row for row in tx.list(NETWORKS, shared=True) if not row.external}
    if len(networks) > 1 and len(own) == 1:
        return [_Any(own[0].id)]
    if len(networks) > 1:
        raise Conflict(
            "Multiple possible networks found, use a Network ID to be more specific.",
            kind="NetworkAmbiguous",
        )
    return [_Any(network_id) for network_id in networks]


def _make(
    tx: Tx, who: Principal, request: NicRequest, instance_id: str, owner: str, number: int
) -> PortInfo:
    assert request.network_id is not None, "an interface is on a network or a port"
    network = find_visible_network(tx, request.network_id, who)
    if network is None:
        raise Invalid(f"Network {request.network_id[:64]} could not be found.")
    if network.external and not network.shared and not who.is_admin:
        raise Forbidden(
            f"It is not allowed to create an interface on external network {network.id}"
        )
    subnets = tx.list(SUBNETS, network_id=network.id)
    if not subnets:
        raise Invalid(
            f"Network {network.id} requires a subnet in order to boot instances on.",
            kind="NetworkRequiresSubnet",
        )
    asked = None if request.address is None else [FixedIp(ip_address=request.address)]
    mac = draw_mac(tx, network.id)
    chosen = _choose(tx, subnets, asked, mac=mac, network=network)
    port = insert_port(
        tx,
        network,
        {
            "project_id": who.project,
            "name": "",
            "description": "",
            "admin_state_up": True,
            "mac_address": mac,
            "device_id": instance_id,
            "device_owner": owner,
            "host_id": "",
            "vnic_type": "normal",
            "profile": None,
            "allowed_address_pairs": None,
            "extra_dhcp_opts": None,
            "port_security_enabled": network.port_security_enabled,
            "is_ours": True,
            "nic_tag": request.tag,
            "nic_number": number,
        },
    )
    allocations.give(tx, port["id"], chosen)
    return PortInfo(
        id=port["id"],
        network_id=network.id,
        network_name=network.name,
        mac=mac,
        mtu=network.mtu,
        addresses=_addresses(chosen, {subnet.id: subnet for subnet in subnets}),
        is_ours=True,
        tag=request.tag,
    )


def _choose(
    tx: Tx, subnets: Sequence[Row], asked: Any, *, mac: str, network: Row
) -> fixed_ips.Chosen:
    try:
        return fixed_ips.choose(tx, subnets, asked, mac=mac, network_id=network.id)
    except Conflict as error:
        if error.kind == "IpAddressAlreadyAllocated":
            # Compute words it as a fault of the request. Source: nova FixedIpAlreadyInUse.
            raise Invalid(
                f"Fixed IP address {asked[0].ip_address} is already in use on another instance.",
                kind="FixedIpAlreadyInUse",
            ) from error
        raise


def _take(
    tx: Tx, who: Principal, request: NicRequest, instance_id: str, owner: str, number: int
) -> PortInfo:
    assert request.port_id is not None, "only a port that is there can be taken"
    port = tx.find(PORTS, id=request.port_id)
    if port is None or not (port.project_id == who.project_id or who.is_admin):
        raise Invalid(f"Port id {request.port_id[:64]} could not be found.")
    if port.device_id:
        raise Conflict(f"Port {port.id} is still in use.", kind="PortInUse")
    network = tx.get(NETWORKS, id=port.network_id)
    pairs = [(row.subnet_id, row.address) for row in allocations.addresses_of(tx, port.id)]
    subnets = {row.id: row for row in tx.list(SUBNETS, network_id=port.network_id)}
    if subnets and not pairs:
        raise Invalid(
            f"Port {port.id} requires a FixedIP in order to be used.", kind="PortRequiresFixedIP"
        )
    _change(
        tx,
        port,
        device_id=instance_id,
        device_owner=owner,
        nic_tag=request.tag,
        nic_number=number,
    )
    return PortInfo(
        id=port.id,
        network_id=network.id,
        network_name=network.name,
        mac=port.mac_address,
        mtu=network.mtu,
        addresses=_addresses(pairs, subnets),
        is_ours=False,
        tag=request.tag,
    )


def _change(tx: Tx, port: Row, **values: Any) -> None:
    tx.update(
        PORTS,
        {"id": port.id},
        **values,
        revision_number=port.revision_number + 1,
        updated_at=tx.world.clock.now(),
    )


def _addresses(
    pairs: Sequence[tuple[str, str]], subnets: dict[str, Row]
) -> tuple[FixedAddress, ...]:
    found: list[FixedAddress] = []
    for subnet_id, address in pairs:
        subnet = subnets[subnet_id]
        found.append(
            FixedAddress(
                subnet_id=subnet_id,
                address=address,
                version=subnet.ip_version,
                prefix_length=_prefix_length(subnet.cidr),
                gateway=subnet.gateway_ip,
                dns=tuple(subnet.dns_nameservers),
                routes=tuple((route[0], route[1]) for route in subnet.host_routes),
            )
        )
    return tuple(found)


@lru_cache(maxsize=4096)
def _prefix_length(cidr: str) -> int:
    return ip_network(cidr).prefixlen
