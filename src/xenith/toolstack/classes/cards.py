"""The cards of hosts: PIFs, and what is made of them: VLANs, bonds and tunnels.

What a card is told is kept; on these backends the networks of guests are the records alone.
Source: XenAPI classes PIF, VLAN, Bond, tunnel, network.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

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
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")


def _make(server: HostServer, **fields: Any) -> str:
    metrics = server.objects.create(
        "PIF_metrics", carrier=True, speed=1000, duplex=True, last_updated=server.now()
    )
    ref = server.objects.create("PIF", metrics=metrics, **fields)
    server.objects.link("host", fields["host"], "PIFs", ref)
    if not is_null(fields["network"]):
        server.objects.link("network", fields["network"], "PIFs", ref)
    return ref


def _remove(host: HostServer, ref: str) -> None:
    record = host.objects.get("PIF", ref)
    host.objects.delete("PIF", ref)
    host.objects.unlink("host", record["host"], "PIFs", ref)
    host.objects.unlink("network", record["network"], "PIFs", ref)
    if host.objects.find("PIF_metrics", record["metrics"]) is not None:
        host.objects.delete("PIF_metrics", record["metrics"])


@method("PIF.introduce", is_async=True)
def introduce(host: HostServer, on: str, mac: str, device: str, managed: bool = True) -> str:
    """Note a card of a host, with a network of its own. Source: XenAPI PIF.introduce."""
    host.objects.get("host", on)
    if mac and _MAC.fullmatch(mac) is None:
        raise XapiFault("MAC_INVALID", mac)
    if _DEVICE.fullmatch(device) is None:
        raise XapiFault("INVALID_VALUE", "device", device[:100])
    if any(
        row["host"] == on and row["device"] == device and row["VLAN"] == -1
        for row in host.objects.all("PIF").values()
    ):
        raise XapiFault("DUPLICATE_PIF_DEVICE_NAME", device)
    network = host.objects.create(
        "network",
        name_label=f"Pool-wide network associated with {device}",
        bridge=f"xenbr{device.removeprefix('eth')}",
    )
    return _make(
        host,
        host=on,
        network=network,
        device=device,
        MAC=mac.lower(),
        physical=True,
        managed=managed,
    )


@method("PIF.db_introduce", is_async=True)
def db_introduce(
    host: HostServer,
    device: str,
    network: str,
    on: str,
    mac: str,
    mtu: int,
    vlan: int,
    physical: bool,
) -> str:
    """Note a card by its record alone. Source: XenAPI PIF.db_introduce."""
    host.objects.get("network", network)
    host.objects.get("host", on)
    if mac and _MAC.fullmatch(mac) is None:
        raise XapiFault("MAC_INVALID", mac)
    return _make(
        host,
        host=on,
        network=network,
        device=device,
        MAC=mac.lower(),
        MTU=mtu,
        VLAN=vlan,
        physical=physical,
    )


@method("PIF.forget", is_async=True)
@method("PIF.db_forget", is_async=True)
def forget(host: HostServer, ref: str) -> None:
    """Forget a physical card that is not in use. Source: XenAPI PIF.forget."""
    record = host.objects.get("PIF", ref)
    if not record["physical"]:
        raise XapiFault("PIF_IS_VLAN" if record["VLAN"] >= 0 else "PIF_IS_NOT_PHYSICAL", ref)
    _check_free(ref, record)
    _remove(host, ref)


def _check_free(ref: str, record: dict[str, Any]) -> None:
    if record["management"]:
        raise XapiFault("PIF_IS_MANAGEMENT_INTERFACE", ref)
    if not is_null(record["bond_slave_of"]):
        raise XapiFault("PIF_ALREADY_BONDED", ref)
    if record["bond_master_of"]:
        raise XapiFault("PIF_BOND_NEEDS_MORE_MEMBERS")
    if record["VLAN_slave_of"]:
        raise XapiFault("PIF_VLAN_STILL_EXISTS", ref)
    if record["tunnel_transport_PIF_of"]:
        raise XapiFault("PIF_TUNNEL_STILL_EXISTS", ref)


@method("PIF.plug", is_async=True)
def plug(host: HostServer, ref: str) -> None:
    """Bring a card up. Source: XenAPI PIF.plug."""
    record = host.objects.get("PIF", ref)
    if not is_null(record["bond_slave_of"]):
        raise XapiFault("CANNOT_PLUG_BOND_SLAVE", ref)
    if not record["managed"]:
        raise XapiFault("PIF_UNMANAGED", ref)
    host.objects.update("PIF", ref, currently_attached=True)


@method("PIF.unplug", is_async=True)
def unplug(host: HostServer, ref: str) -> None:
    """Take a card down. Source: XenAPI PIF.unplug."""
    record = host.objects.get("PIF", ref)
    if record["management"]:
        raise XapiFault("PIF_IS_MANAGEMENT_INTERFACE", ref)
    if record["disallow_unplug"]:
        raise XapiFault("PIF_DOES_NOT_ALLOW_UNPLUG", ref)
    for vif in host.objects.get("network", record["network"])["VIFs"]:
        row = host.objects.get("VIF", vif)
        if row["currently_attached"]:
            vm = host.objects.get("VM", row["VM"])
            if vm["resident_on"] == record["host"]:
                raise XapiFault("VIF_IN_USE", record["network"], vif)
    host.objects.update("PIF", ref, currently_attached=False)


@method("PIF.set_disallow_unplug", is_async=True)
def set_disallow_unplug(host: HostServer, ref: str, value: bool) -> None:
    """Say whether a card may be taken down. Source: XenAPI PIF.set_disallow_unplug."""
    host.objects.get("PIF", ref)
    host.objects.update("PIF", ref, disallow_unplug=value)


@method("PIF.scan", is_async=True)
def scan(host: HostServer, on: str) -> None:
    """Look for cards: those of these backends are there from the start. Source: PIF.scan."""
    host.objects.get("host", on)
    host.pool.member(on)


@method("PIF.reconfigure_ip", is_async=True)
def reconfigure_ip(
    host: HostServer, ref: str, mode: str, address: str, netmask: str, gateway: str, dns: str
) -> None:
    """Give a card an address. Source: XenAPI PIF.reconfigure_ip."""
    record = host.objects.get("PIF", ref)
    if mode not in ("None", "DHCP", "Static"):
        raise XapiFault("INVALID_VALUE", "mode", mode)
    if not is_null(record["bond_slave_of"]):
        raise XapiFault("PIF_ALREADY_BONDED", ref)
    if mode == "None" and record["management"]:
        raise XapiFault("PIF_IS_MANAGEMENT_INTERFACE", ref)
    if mode == "Static":
        _check_address("IP", address, version=4)
        _check_address("netmask", netmask, version=4)
        if gateway:
            _check_address("gateway", gateway, version=4)
    for server in filter(None, dns.split(",")):
        _check_address("DNS", server, version=0)
    is_static = mode == "Static"
    host.objects.update(
        "PIF",
        ref,
        ip_configuration_mode=mode,
        IP=address if is_static else ("" if mode == "None" else record["IP"]),
        netmask=netmask if is_static else "",
        gateway=gateway if is_static else "",
        DNS=dns if is_static else "",
    )


@method("PIF.reconfigure_ipv6", is_async=True)
def reconfigure_ipv6(
    host: HostServer, ref: str, mode: str, address: str, gateway: str, dns: str
) -> None:
    """Give a card an IPv6 address. Source: XenAPI PIF.reconfigure_ipv6."""
    record = host.objects.get("PIF", ref)
    if mode not in ("None", "DHCP", "Static", "Autoconf"):
        raise XapiFault("INVALID_VALUE", "mode", mode)
    if mode == "None" and record["management"] and record["primary_address_type"] == "IPv6":
        raise XapiFault("PIF_IS_MANAGEMENT_INTERFACE", ref)
    if mode == "Static":
        _check_address("IPv6", address.partition("/")[0], version=6)
        if gateway:
            _check_address("gateway", gateway, version=6)
    is_static = mode == "Static"
    host.objects.update(
        "PIF",
        ref,
        ipv6_configuration_mode=mode,
        IPv6=[address] if is_static else [],
        ipv6_gateway=gateway if is_static else "",
        DNS=dns if is_static else record["DNS"],
    )


def _check_address(name: str, text: str, *, version: int) -> None:
    try:
        parsed = ipaddress.ip_address(text.strip())
    except ValueError:
        raise XapiFault("INVALID_IP_ADDRESS_SPECIFIED", name) from None
    if version and parsed.version != version:
        raise XapiFault("INVALID_IP_ADDRESS_SPECIFIED", name)


@method("PIF.set_primary_address_type", is_async=True)
def set_primary_address_type(host: HostServer, ref: str, kind: str) -> None:
    """Say by which kind of address a card is reached. Source: PIF.set_primary_address_type."""
    record = host.objects.get("PIF", ref)
    if kind not in ("IPv4", "IPv6"):
        raise XapiFault("INVALID_VALUE", "primary_address_type", kind)
    if record["management"] and kind != record["primary_address_type"]:
        raise XapiFault("PIF_IS_MANAGEMENT_INTERFACE", ref)
    host.objects.update("PIF", ref, primary_address_type=kind)


@method("PIF.set_property", is_async=True)
def set_property(host: HostServer, ref: str, name: str, value: str) -> None:
    """Set what a card's driver does. Source: XenAPI PIF.set_property."""
    record = host.objects.get("PIF", ref)
    if name != "gro" or value not in ("on", "off"):
        raise XapiFault("INVALID_VALUE", "properties", f"{name} = {value}"[:100])
    host.objects.update("PIF", ref, properties={**record["properties"], name: value})


# -- VLANs


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
    untagged = _make(
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
    _remove(host, record["untagged_PIF"])


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
    if mac and _MAC.fullmatch(mac) is None:
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
    master = _make(
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
    _remove(host, record["master"])


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
    access = _make(host, host=record["host"], network=network, device=f"tunnel{number}")
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
    _remove(host, record["access_PIF"])


# -- networks


@method("network.add_purpose", is_async=True)
def add_purpose(host: HostServer, ref: str, value: str) -> None:
    """Say what a network is for. Source: XenAPI network.add_purpose."""
    record = host.objects.get("network", ref)
    if value not in ("nbd", "insecure_nbd"):
        raise XapiFault("INVALID_VALUE", "purpose", value)
    if value in record["purpose"]:
        raise XapiFault("NETWORK_ALREADY_HAS_PURPOSE", ref, value)
    clashing = {"nbd": "insecure_nbd", "insecure_nbd": "nbd"}[value]
    for other in host.objects.all("network").values():
        if clashing in other["purpose"]:
            raise XapiFault("NETWORK_INCOMPATIBLE_PURPOSES", value, clashing)
    host.objects.update("network", ref, purpose=[*record["purpose"], value])


@method("network.remove_purpose", is_async=True)
def remove_purpose(host: HostServer, ref: str, value: str) -> None:
    """Say what a network is for no more. Source: XenAPI network.remove_purpose."""
    host.objects.get("network", ref)
    host.objects.unlink("network", ref, "purpose", value)


@method("network.set_default_locking_mode", is_async=True)
def set_default_locking_mode(host: HostServer, ref: str, value: str) -> None:
    """Say what passes for VIFs that say nothing themselves. Source: XenAPI network."""
    record = host.objects.get("network", ref)
    if value not in ("unlocked", "disabled"):
        raise XapiFault("INVALID_VALUE", "default_locking_mode", value)
    for vif in record["VIFs"]:
        row = host.objects.get("VIF", vif)
        if row["currently_attached"] and row["locking_mode"] == "network_default":
            raise XapiFault("VIF_IN_USE", ref, vif)
    host.objects.update("network", ref, default_locking_mode=value)


@method("network.attach_for_vm")
def attach_for_vm(host: HostServer, on: str, vm: str) -> None:
    """Bring up what a VM's networks need on a host. Source: XenAPI network.attach_for_vm."""
    host.objects.get("host", on)
    for vif in host.objects.get("VM", vm)["VIFs"]:
        network = host.objects.get("VIF", vif)["network"]
        for pif in host.objects.get("network", network)["PIFs"]:
            row = host.objects.get("PIF", pif)
            if row["host"] == on and not row["currently_attached"]:
                plug(host, pif)


@method("network.detach_for_vm")
def detach_for_vm(host: HostServer, on: str, vm: str) -> None:
    """Take down what a VM's networks needed; cards stay up for others. Source: XenAPI."""
    host.objects.get("host", on)
    host.objects.get("VM", vm)
