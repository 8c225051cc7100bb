"""What a guest is told of itself, in OpenStack's words: metadata, network data, agent data.

Pure: from one typed account of the server to the documents that cloud-init and the guest agent
read. Host names, keys and user data are a tenant's: they go in as data and are never interpreted.
Source: nova, "Metadata API: OpenStack format", 2018-08-27; the guest agent's xenstore keys.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
from collections.abc import Iterable
from string import ascii_lowercase
from typing import Any

import msgspec

from xenith.driver.flavor_disks import EPHEMERAL_DEVICE, flavor_disks

#: Bytes of seed for the guest's random pool. Source: nova gives 512.
SEED_BYTES = 512


class GuestAddress(msgspec.Struct, frozen=True):
    """One address of an interface, with what is needed to use it."""

    address: str
    version: int
    prefix_length: int
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    #: Destination in CIDR form, and gateway.
    routes: tuple[tuple[str, str], ...] = ()


class GuestPort(msgspec.Struct, frozen=True):
    """One interface."""

    id: str
    network_id: str
    mac: str
    mtu: int
    addresses: tuple[GuestAddress, ...] = ()
    network_name: str = ""


class GuestKey(msgspec.Struct, frozen=True):
    """The key pair's public half."""

    name: str
    public_key: str
    type: str = "ssh"


class GuestFlavor(msgspec.Struct, frozen=True):
    """What a flavor gives beside the root disk: MiB of swap, GiB of ephemeral disks."""

    swap: int = 0
    ephemeral: int = 0


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a guest is told of itself."""

    id: str
    name: str
    hostname: str
    project_id: str
    ports: tuple[GuestPort, ...] = ()
    key: GuestKey | None = None
    metadata: dict[str, str] = {}
    zone: str | None = None
    launch_index: int = 0
    flavor: GuestFlavor = GuestFlavor()
    admin_pass: str = ""
    #: Base64, as the tenant sent it.
    user_data: str | None = None
    #: Paths in the guest, and contents in base64.
    files: tuple[tuple[str, str], ...] = ()


def meta_data(guest: Guest) -> dict[str, Any]:
    """Give ``meta_data.json``."""
    document: dict[str, Any] = {
        "uuid": guest.id,
        "name": guest.name,
        "hostname": guest.hostname,
        "launch_index": guest.launch_index,
        "availability_zone": guest.zone or "nova",
        "project_id": guest.project_id,
        "meta": guest.metadata,
        "devices": [],
        "dedicated_cpus": [],
        "random_seed": base64.b64encode(_seed(guest)).decode(),
    }
    if guest.admin_pass:
        document["admin_pass"] = guest.admin_pass
    if guest.key is not None:
        document["public_keys"] = {guest.key.name: guest.key.public_key}
        document["keys"] = [
            {"name": guest.key.name, "type": guest.key.type, "data": guest.key.public_key}
        ]
    if guest.files:
        document["files"] = [
            {"content_path": content_path(number), "path": path}
            for number, (path, _) in enumerate(guest.files)
        ]
    return document


def ec2_meta_data(guest: Guest) -> dict[str, Any]:
    """Give what EC2 calls ``meta-data``: from it cloud-init learns where its further disks are.

    Source: nova, ``InstanceMetadata._get_ec2_metadata`` and its block device mapping.
    """
    mapping = {"ami": "xvda", "root": "/dev/xvda"}
    sizes = {"swap_mib": guest.flavor.swap, "ephemeral_gib": guest.flavor.ephemeral}
    # A guest's disks have one letter each; no host has room for more ephemeral disks.
    for disk in flavor_disks(guest.id, **sizes)[: len(ascii_lowercase) - EPHEMERAL_DEVICE]:
        mapping[disk.description] = f"/dev/xvd{ascii_lowercase[int(disk.device)]}"
    return {
        "instance-id": guest.id,
        "hostname": guest.hostname,
        "local-hostname": guest.hostname,
        "block-device-mapping": mapping,
    }


def content_path(number: int) -> str:
    """Name an injected file's contents below ``openstack/``.

    >>> content_path(3)
    '/content/0003'
    """
    return f"/content/{number:04d}"


def _seed(guest: Guest) -> bytes:
    """Derive the seed, so that a build done twice gives one drive.

    It adds to the guest's own randomness and is as secret as the password beside it.
    """
    return hashlib.shake_256(f"xenith-seed-1/{guest.id}/{guest.admin_pass}".encode()).digest(
        SEED_BYTES
    )


def network_data(ports: Iterable[GuestPort]) -> dict[str, Any]:
    """Give ``network_data.json``."""
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    servers: dict[str, None] = {}
    for port in ports:
        link = "tap" + port.id[:11]
        links.append(
            {
                "id": link,
                "vif_id": port.id,
                # A null type is what cloud-init once stumbled over on Xen.
                "type": "phy",
                "mtu": port.mtu,
                "ethernet_mac_address": port.mac,
            }
        )
        for address in port.addresses:
            servers.update(dict.fromkeys(address.dns))
            networks.append(
                {
                    "id": f"network{len(networks)}",
                    "type": f"ipv{address.version}",
                    "link": link,
                    "ip_address": address.address,
                    "netmask": netmask(address.version, address.prefix_length),
                    "routes": list(_routes(address)),
                    "network_id": port.network_id,
                    "services": [{"type": "dns", "address": server} for server in address.dns],
                }
            )
    services = [{"type": "dns", "address": server} for server in servers]
    return {"links": links, "networks": networks, "services": services}


def netmask(version: int, prefix_length: int) -> str:
    """Write a prefix length as a mask.

    >>> netmask(4, 26), netmask(6, 64)
    ('255.255.255.192', 'ffff:ffff:ffff:ffff::')
    """
    bits = 32 if version == 4 else 128
    mask = (1 << bits) - (1 << (bits - prefix_length))
    return str(ipaddress.IPv4Address(mask) if version == 4 else ipaddress.IPv6Address(mask))


def _routes(address: GuestAddress) -> Iterable[dict[str, str]]:
    if address.gateway is not None:
        anywhere = "0.0.0.0" if address.version == 4 else "::"  # noqa: S104 - a route, not a bind
        yield {"network": anywhere, "netmask": anywhere, "gateway": address.gateway}
    for destination, gateway in address.routes:
        network = ipaddress.ip_network(destination, strict=False)
        yield {
            "network": str(network.network_address),
            "netmask": str(network.netmask),
            "gateway": gateway,
        }


def xenstore_data(guest: Guest) -> dict[str, str]:
    """Give what the guest agent reads from the VM's xenstore: host name and interfaces."""
    data = {"vm-data/hostname": guest.hostname}
    has_gateway = False
    for port in guest.ports:
        # Upper case: the newer agent compares the key with an upper-case address.
        key = "vm-data/networking/" + port.mac.replace(":", "").upper()
        data[key] = json.dumps(_agent_interface(port, is_default=not has_gateway))
        has_gateway = has_gateway or any(a.gateway and a.version == 4 for a in port.addresses)
    return data


def _agent_interface(port: GuestPort, *, is_default: bool) -> dict[str, Any]:
    """Describe an interface to the agent; only one may have a default route."""
    ipv4 = [address for address in port.addresses if address.version == 4]
    ipv6 = [address for address in port.addresses if address.version == 6]
    interface: dict[str, Any] = {"label": port.network_name, "mac": port.mac.upper()}
    if ipv4:
        first = ipaddress.ip_interface(f"{ipv4[0].address}/{ipv4[0].prefix_length}")
        interface["broadcast"] = str(first.network.broadcast_address)
        interface["gateway"] = ipv4[0].gateway if is_default else None
        interface["ips"] = [
            {
                "ip": address.address,
                "netmask": netmask(4, address.prefix_length),
                "enabled": "1",
                "gateway": address.gateway,
            }
            for address in ipv4
        ]
    if ipv6:
        interface["gateway_v6"] = ipv6[0].gateway
        interface["ip6s"] = [
            {
                "ip": address.address,
                "netmask": address.prefix_length,
                "enabled": "1",
                "gateway": address.gateway,
            }
            for address in ipv6
        ]
    routes = [
        {"route": route["network"], "netmask": route["netmask"], "gateway": route["gateway"]}
        for address in ipv4
        for route in _routes(msgspec.structs.replace(address, gateway=None))
    ]
    dns = list(dict.fromkeys(server for address in port.addresses for server in address.dns))
    return interface | ({"routes": routes} if routes else {}) | ({"dns": dns} if dns else {})
