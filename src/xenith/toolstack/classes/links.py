"""What is made of the cards of hosts: VLANs, bonds and tunnels.

Source: XenAPI classes VLAN, Bond, tunnel; pool.create_VLAN.
"""

from __future__ import annotations

from xenith.toolstack.classes.cards import MAC, make_card, remove_card, unplug
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: Source: IEEE 802.1Q.
VLAN_MAX = 4094
#: Source: XenAPI, enum bond_mode.
BOND_MODES = ("balance-slb", "active-backup", "lacp")
#: Cards of one bond. Source: XenServer.
BOND_MEMBERS_MAX = 4


def _make_vlan(host: HostServer, tagged: str, network: str, tag: int) -> str:
    """Make a VLAN on a card; give the card that has it untagged."""
    record = host.objects.get("PIF", tagged)
    host.objects.get("network", network)
    if not 0 <= tag <= VLAN_MAX:
        raise XapiFault("VLAN_TAG_INVALID", tag)
    if record["VLAN"] >= 0:
        raise XapiFault("PIF_IS_VLAN", tagged)
    if not is_null(record["bond_slave_of"]):
        raise XapiFault("CANNOT_ADD_VLAN_TO_BOND_SLAVE", tagged)
    for row in host.objects.all("PIF").values():
        if row["host"] != record["host"]:
            continue
        if row["device"] == record["device"] and row["VLAN"] == tag:
            raise XapiFault("PIF_VLAN_EXISTS", tagged)
        if row["network"] == network:
            raise XapiFault("NETWORK_ALREADY_CONNECTED", record["host"], row["device"])
    untagged = make_card(
        host,
        host=record["host"],
        network=network,
        device=record["device"],
        MAC=record["MAC"],
        MTU=record["MTU"],
        VLAN=tag,
        currently_attached=record["currently_attached"],
    )
    made = host.objects.create("VLAN", tagged_PIF=tagged, untagged_PIF=untagged, tag=tag)
    host.objects.update("PIF", untagged, VLAN_master_of=made)
    host.objects.link("PIF", tagged, "VLAN_slave_of", made)
    return untagged


@method("VLAN.create", is_async=True)
def create_vlan(host: HostServer, tagged: str, tag: int, network: str) -> str:
    """Make a VLAN on one host's card. Source: XenAPI VLAN.create."""
    untagged = _make_vlan(host, tagged, network, tag)
    return str(host.objects.get("PIF", untagged)["VLAN_master_of"])


@method("VLAN.destroy", is_async=True)
def destroy_vlan(host: HostServer, ref: str) -> None:
    """Remove a VLAN that nothing runs on. Source: XenAPI VLAN.destroy."""
    record = host.objects.get("VLAN", ref)
    untagged = host.objects.get("PIF", record["untagged_PIF"])
    if untagged["management"]:
        raise XapiFault("PIF_IS_MANAGEMENT_INTERFACE", record["untagged_PIF"])
    if untagged["currently_attached"]:
        unplug(host, record["untagged_PIF"])
    host.objects.unlink("PIF", record["tagged_PIF"], "VLAN_slave_of", ref)
    host.objects.delete("VLAN", ref)
    remove_card(host, record["untagged_PIF"])


@method("PIF.create_VLAN", is_async=True)
def pif_create_vlan(host: HostServer, device: str, network: str, on: str, tag: int) -> str:
    """Make a VLAN on a host's card of a name. Source: XenAPI PIF.create_VLAN."""
    host.objects.get("host", on)
    return _make_vlan(host, _untagged(host, on, device), network, tag)


def _untagged(host: HostServer, on: str, device: str) -> str:
    for ref, row in host.objects.all("PIF").items():
        if row["host"] == on and row["device"] == device and row["VLAN"] == -1:
            return ref
    raise XapiFault("PIF_DEVICE_NOT_FOUND")


@method("pool.create_VLAN", is_async=True)
def pool_create_vlan(host: HostServer, device: str, network: str, tag: int) -> list[str]:
    """Make a VLAN on the cards of a name of all hosts, or none. Source: pool.create_VLAN."""
    return _on_all(host, [_untagged(host, on, device) for on in host.pool.members], network, tag)


@method("pool.create_VLAN_from_PIF", is_async=True)
def pool_create_vlan_from_pif(host: HostServer, pif: str, network: str, tag: int) -> list[str]:
    """Make a VLAN beside a card on all hosts, or none. Source: pool.create_VLAN_from_PIF."""
    own = host.objects.get("PIF", pif)["network"]
    return _on_all(host, list(host.objects.get("network", own)["PIFs"]), network, tag)


def _on_all(host: HostServer, cards: list[str], network: str, tag: int) -> list[str]:
    made: list[str] = []
    try:
        for card in cards:
            made.append(_make_vlan(host, card, network, tag))  # noqa: PERF401 - undone in part
    except XapiFault:
        for ref in made:
            destroy_vlan(host, host.objects.get("PIF", ref)["VLAN_master_of"])
        raise
    return made


# -- bonds


@method("Bond.create", is_async=True)
def create_bond(
    host: HostServer,
    network: str,
    members: list[str],
    mac: str,
    mode: str = "balance-slb",
    properties: dict[str, str] | None = None,
) -> str:
    """Make one card of several. Source: XenAPI Bond.create."""
    host.objects.get("network", network)
    rows = {ref: host.objects.get("PIF", ref) for ref in members}
    if mode not in BOND_MODES:
        raise XapiFault("INVALID_VALUE", "mode", mode)
    if mac and MAC.fullmatch(mac) is None:
        raise XapiFault("MAC_INVALID", mac)
    if not 2 <= len(rows) <= BOND_MEMBERS_MAX:
        raise XapiFault("PIF_BOND_NEEDS_MORE_MEMBERS")
    if len({row["host"] for row in rows.values()}) != 1:
        raise XapiFault("PIF_BOND_CANNOT_CROSS_HOSTS")
    for ref, row in rows.items():
        if not is_null(row["bond_slave_of"]):
            raise XapiFault("PIF_ALREADY_BONDED", ref)
        if row["VLAN"] >= 0:
            raise XapiFault("PIF_VLAN_EXISTS", ref)
    first = next((row for row in rows.values() if row["management"]), next(iter(rows.values())))
    number = sum(1 for row in host.objects.all("PIF").values() if row["bond_master_of"])
    taken = ("management", "IP", "netmask", "gateway", "DNS", "ip_configuration_mode")
    master = make_card(
        host,
        host=first["host"],
        network=network,
        device=f"bond{number}",
        MAC=mac.lower() or first["MAC"],
        MTU=host.objects.get("network", network)["MTU"],
        currently_attached=True,
        **{name: first[name] for name in taken},
    )
    primary = next(ref for ref, row in rows.items() if row is first)
    bond = host.objects.create(
        "Bond",
        master=master,
        slaves=list(rows),
        primary_slave=primary,
        mode=mode,
        properties=properties or {},
        links_up=len(rows),
    )
    host.objects.update("PIF", master, bond_master_of=[bond])
    for ref in rows:
        host.objects.update(
            "PIF",
            ref,
            bond_slave_of=bond,
            management=False,
            currently_attached=False,
            ip_configuration_mode="None",
            IP="",
            netmask="",
            gateway="",
            DNS="",
        )
    return bond


@method("Bond.destroy", is_async=True)
def destroy_bond(host: HostServer, ref: str) -> None:
    """Make several cards again of one; the first has its addresses. Source: Bond.destroy."""
    record = host.objects.get("Bond", ref)
    master = host.objects.get("PIF", record["master"])
    if master["VLAN_slave_of"]:
        raise XapiFault("PIF_VLAN_STILL_EXISTS", record["master"])
    taken = ("management", "IP", "netmask", "gateway", "DNS", "ip_configuration_mode")
    for slave in record["slaves"]:
        host.objects.update("PIF", slave, bond_slave_of=NULL)
    host.objects.update(
        "PIF",
        record["primary_slave"],
        currently_attached=True,
        **{name: master[name] for name in taken},
    )
    host.objects.delete("Bond", ref)
    remove_card(host, record["master"])


@method("Bond.set_mode", is_async=True)
def set_bond_mode(host: HostServer, ref: str, mode: str) -> None:
    """Choose how a bond spreads what it carries. Source: XenAPI Bond.set_mode."""
    host.objects.get("Bond", ref)
    if mode not in BOND_MODES:
        raise XapiFault("INVALID_VALUE", "mode", mode)
    host.objects.update("Bond", ref, mode=mode)


@method("Bond.set_property", is_async=True)
def set_bond_property(host: HostServer, ref: str, name: str, value: str) -> None:
    """Set a property of a bond. Source: XenAPI Bond.set_property."""
    record = host.objects.get("Bond", ref)
    if name not in ("hashing_algorithm", "lacp-time", "lacp-aggregation-key"):
        raise XapiFault("INVALID_VALUE", "properties", name[:100])
    host.objects.update("Bond", ref, properties={**record["properties"], name: value})


# -- tunnels


@method("tunnel.create", is_async=True)
def create_tunnel(host: HostServer, transport: str, network: str, protocol: str = "gre") -> str:
    """Carry a network over a card. Source: XenAPI tunnel.create."""
    record = host.objects.get("PIF", transport)
    host.objects.get("network", network)
    if protocol not in ("gre", "vxlan"):
        raise XapiFault("INVALID_VALUE", "protocol", protocol)
    if not is_null(record["bond_slave_of"]):
        raise XapiFault("CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", transport)
    if record["tunnel_access_PIF_of"]:
        raise XapiFault("IS_TUNNEL_ACCESS_PIF", transport)
    for row in host.objects.all("PIF").values():
        if row["host"] == record["host"] and row["network"] == network:
            raise XapiFault("NETWORK_ALREADY_CONNECTED", record["host"], row["device"])
    number = len(host.objects.all("tunnel"))
    access = make_card(host, host=record["host"], network=network, device=f"tunnel{number}")
    made = host.objects.create(
        "tunnel",
        access_PIF=access,
        transport_PIF=transport,
        protocol=protocol,
        status={"active": "false"},
    )
    host.objects.update("PIF", access, tunnel_access_PIF_of=[made])
    host.objects.link("PIF", transport, "tunnel_transport_PIF_of", made)
    return made


@method("tunnel.destroy", is_async=True)
def destroy_tunnel(host: HostServer, ref: str) -> None:
    """Carry a network no more. Source: XenAPI tunnel.destroy."""
    record = host.objects.get("tunnel", ref)
    host.objects.unlink("PIF", record["transport_PIF"], "tunnel_transport_PIF_of", ref)
    host.objects.delete("tunnel", ref)
    remove_card(host, record["access_PIF"])
