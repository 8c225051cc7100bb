"""The cards of hosts: PIFs, their addresses, and what their drivers do.

What a card is told is kept; on these backends the networks of guests are the records alone.
Source: XenAPI class PIF.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from xenith.toolstack.methods import is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")


def make_card(server: HostServer, **fields: Any) -> str:
    """Make a card's record, and link it to its host and network."""
    metrics = server.objects.create(
        "PIF_metrics", carrier=True, speed=1000, duplex=True, last_updated=server.now()
    )
    ref = server.objects.create("PIF", metrics=metrics, **fields)
    server.objects.link("host", fields["host"], "PIFs", ref)
    if not is_null(fields["network"]):
        server.objects.link("network", fields["network"], "PIFs", ref)
    return ref


def remove_card(host: HostServer, ref: str) -> None:
    """Remove a card's record and what refers to it."""
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
    if mac and MAC.fullmatch(mac) is None:
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
    return make_card(
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
    if mac and MAC.fullmatch(mac) is None:
        raise XapiFault("MAC_INVALID", mac)
    return make_card(
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
    remove_card(host, ref)


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
