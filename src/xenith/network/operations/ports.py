"""What can be done with ports. Transaction functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network import addresses
from xenith.network.attributes import PORT
from xenith.network.operations import fixed_ips
from xenith.network.operations.rows import (
    change_row,
    check_revision,
    enforce_attributes,
    owner_of,
    stamp_new,
)
from xenith.network.policies import enforce
from xenith.network.records import allocations, quotas
from xenith.network.records.networks import NETWORKS, get_visible_network, sees_all
from xenith.network.records.ports import PORTS
from xenith.network.records.subnets import SUBNETS

#: Draws of a MAC address that no other port of the network has. Source: neutron `mac_retries`.
MAC_DRAWS_MAX = 16


def get_visible_port(tx: Tx, port_id: str, who: Principal) -> tuple[Row, Row]:
    """Get a port that a caller may know of, and its network.

    Raises:
        NotFound: there is none, or not for this caller.
    """
    row = tx.find(PORTS, id=port_id)
    if row is not None:
        network = tx.get(NETWORKS, id=row.network_id)
        own = who.project_id is not None and who.project_id in (row.project_id, network.project_id)
        if own or sees_all(who):
            return row, network
    raise NotFound(f"Port {port_id[:64]} could not be found.", kind="PortNotFound")


def create_port(tx: Tx, who: Principal, values: Mapping[str, Any]) -> Row:
    """Make a port with its addresses.

    Raises:
        Invalid: an address does not fit the network.
        Conflict: an address is taken, or there is none left.
        Exhausted: the project has as many ports as it may.
    """
    project_id = owner_of(who, values)
    network = get_visible_network(tx, values["network_id"], who)
    target = {
        "project_id": project_id,
        "network_project_id": network.project_id,
        "network_shared": network.shared,
    }
    enforce(who, "create_port", **target)
    enforce_attributes(who, "create", PORT, values, **target)
    asked = values.get("fixed_ips")
    if any(ip.ip_address is not None for ip in asked or ()):
        enforce(who, "create_port:fixed_ips:ip_address", **target)
    refuse_security_groups(values)
    security = values.get("port_security_enabled", network.port_security_enabled)
    pairs = read_pairs(values.get("allowed_address_pairs"))
    if pairs and not security:
        _refuse_pairs()
    quotas.claim(tx, project_id, "port")
    asked_mac = values.get("mac_address")
    if asked_mac is None:
        mac = draw_mac(tx, network.id)
    else:
        mac = addresses.read_mac(asked_mac)
        if tx.find(PORTS, network_id=network.id, mac_address=mac) is not None:
            raise _mac_in_use(network.id, mac)
    row = insert_port(
        tx,
        network,
        {
            "project_id": project_id,
            "name": values["name"],
            "description": values["description"],
            "admin_state_up": values["admin_state_up"],
            "mac_address": mac,
            "device_id": values["device_id"] or "",
            "device_owner": values["device_owner"] or "",
            "host_id": values["host_id"] or "",
            "vnic_type": values["vnic_type"],
            "profile": values["binding:profile"],
            "allowed_address_pairs": pairs,
            "extra_dhcp_opts": read_options(values["extra_dhcp_opts"]),
            "port_security_enabled": security,
        },
    )
    subnets = tx.list(SUBNETS, network_id=network.id)
    chosen = fixed_ips.choose(tx, subnets, asked, mac=mac, network_id=network.id)
    allocations.give(tx, row["id"], chosen)
    return tx.get(PORTS, id=row["id"])


def insert_port(tx: Tx, network: Row, values: Mapping[str, Any]) -> dict[str, Any]:
    """Insert a port's row and give it.

    The caller has claimed quota and a MAC address that no port of the network has, and gives the
    addresses.
    """
    row = {
        **stamp_new(tx),
        "network_id": network.id,
        "status": "DOWN",
        "is_ours": False,
        "nic_tag": None,
        "nic_number": 0,
        "tags": None,
        **values,
    }
    tx.insert(PORTS, row)
    return row


def update_port(
    tx: Tx, who: Principal, port_id: str, values: Mapping[str, Any], *, revision: int | None
) -> Row:
    """Change a port."""
    row, network = get_visible_port(tx, port_id, who)
    target = {
        "project_id": row.project_id,
        "network_project_id": network.project_id,
        "network_shared": network.shared,
    }
    enforce(who, "update_port", **target)
    enforce_attributes(who, "update", PORT, values, **target)
    check_revision(row, PORT, revision)
    refuse_security_groups(values)
    changed = {
        name: values[name]
        for name in ("name", "description", "admin_state_up", "vnic_type", "port_security_enabled")
        if name in values
    }
    changed |= {
        name: values[name] or ""
        for name in ("device_id", "device_owner", "host_id")
        if name in values
    }
    if "binding:profile" in values:
        changed["profile"] = values["binding:profile"]
    if "extra_dhcp_opts" in values:
        changed["extra_dhcp_opts"] = merge_options(row.extra_dhcp_opts, values["extra_dhcp_opts"])
    if "allowed_address_pairs" in values:
        changed["allowed_address_pairs"] = read_pairs(values["allowed_address_pairs"])
    security = changed.get("port_security_enabled", row.port_security_enabled)
    if not security and changed.get("allowed_address_pairs", row.allowed_address_pairs):
        _refuse_pairs()
    mac = row.mac_address
    if values.get("mac_address") is not None:
        mac = addresses.read_mac(values["mac_address"])
        other = tx.find(PORTS, network_id=network.id, mac_address=mac)
        if other is not None and other.id != row.id:
            raise _mac_in_use(network.id, mac)
        if mac != row.mac_address and row.host_id:
            raise Conflict(
                f"Unable to complete operation on port {row.id}, port is already bound, port type: "
                f"bridge, old_mac {row.mac_address}, new_mac {mac}.",
                kind="PortBound",
            )
        changed["mac_address"] = mac
    if values.get("fixed_ips") is not None:
        fixed_ips.replace(tx, row, values["fixed_ips"], mac=mac)
    change_row(tx, PORTS, row, changed)
    return tx.get(PORTS, id=row.id)


def delete_port(tx: Tx, who: Principal, port_id: str, *, revision: int | None) -> None:
    """Delete a port and give its addresses back."""
    row, network = get_visible_port(tx, port_id, who)
    enforce(who, "delete_port", project_id=row.project_id, network_project_id=network.project_id)
    check_revision(row, PORT, revision)
    remove_port(tx, row)


def remove_port(tx: Tx, row: Row) -> None:
    """Delete a port's rows."""
    allocations.take_back(tx, tx.list(allocations.IP_ALLOCATIONS, port_id=row.id))
    tx.delete(PORTS, id=row.id)
    quotas.release(tx, row.project_id, "port")


def draw_mac(tx: Tx, network_id: str) -> str:
    """Make a MAC address that no port of the network has."""
    for _ in range(MAC_DRAWS_MAX):
        mac = addresses.make_mac(tx.world.ids)
        if tx.find(PORTS, network_id=network_id, mac_address=mac) is None:
            return mac
    raise Conflict(
        f"Unable to generate unique mac on network {network_id}.",
        kind="MacAddressGenerationFailure",
    )


def refuse_security_groups(values: Mapping[str, Any]) -> None:
    """Take only the empty list: there are no groups to be in.

    Raises:
        NotFound: one is named.
    """
    for group in values.get("security_groups") or ():
        raise NotFound(f"Security group {group[:64]} does not exist", kind="SecurityGroupNotFound")


def read_pairs(asked: Sequence[Any] | None) -> list[dict[str, str | None]] | None:
    """Check pairs of addresses under which a port may send, and give them as rows keep them.

    Raises:
        Invalid: one is no address, or is there twice.
    """
    pairs: list[dict[str, str | None]] = []
    for pair in asked or ():
        text = pair.ip_address
        where = "allowed_address_pairs"
        address = (
            str(addresses.read_network(text, where))
            if "/" in text
            else str(addresses.read_address(text, where))
        )
        mac = None if pair.mac_address is None else addresses.read_mac(pair.mac_address, where)
        made: dict[str, str | None] = {"ip_address": address, "mac_address": mac}
        if made in pairs:
            raise Invalid(
                f"Request contains duplicate address pair: mac_address {mac} ip_address {address}.",
                kind="DuplicateAddressPairInRequest",
            )
        pairs.append(made)
    return pairs or None


def read_options(asked: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    """Give DHCP options as rows keep them; those without a value are left out."""
    return [msgspec.to_builtins(option) for option in asked or () if option.opt_value] or None


def merge_options(
    kept: list[dict[str, Any]] | None, asked: Sequence[Any] | None
) -> list[dict[str, Any]] | None:
    """Change some DHCP options of a port; one without a value goes.

    Source: Network API v2.0, "Extra DHCP options".
    """
    options = {(option["opt_name"], option["ip_version"]): option for option in kept or ()}
    for option in asked or ():
        key = (option.opt_name, option.ip_version)
        if option.opt_value is None:
            options.pop(key, None)
        else:
            options[key] = msgspec.to_builtins(option)
    return list(options.values()) or None


def _refuse_pairs() -> None:
    raise Conflict(
        "Port Security must be enabled in order to have allowed address pairs on a port.",
        kind="AddressPairAndPortSecurityRequired",
    )


def _mac_in_use(network_id: str, mac: str) -> Conflict:
    return Conflict(
        f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.",
        kind="MacAddressInUse",
    )
