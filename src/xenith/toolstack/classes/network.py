"""Networks of a host: a bridge each, to which VIFs are plugged."""

from __future__ import annotations

from typing import Any

from xenith.toolstack.classes import cards
from xenith.toolstack.methods import creation, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


@method("network.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make a network; without a bridge of its own it gets the next. Source: network.create."""
    fields = creation("network", record)
    if not fields.get("bridge"):
        taken = {item["bridge"] for item in host.objects.all("network").values()}
        number = len(taken)
        while f"xapi{number}" in taken:
            number += 1
        fields["bridge"] = f"xapi{number}"
    return host.objects.create("network", **fields)


@method("network.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Remove a network that nothing is plugged to. Source: network.destroy."""
    record = host.objects.get("network", ref)
    if record["VIFs"]:
        raise XapiFault("NETWORK_CONTAINS_VIF", record["VIFs"][0])
    if record["PIFs"]:
        raise XapiFault("NETWORK_CONTAINS_PIF", record["PIFs"][0])
    host.objects.delete("network", ref)


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
                cards.plug(host, pif)


@method("network.detach_for_vm")
def detach_for_vm(host: HostServer, on: str, vm: str) -> None:
    """Take down what a VM's networks needed; cards stay up for others. Source: XenAPI."""
    host.objects.get("host", on)
    host.objects.get("VM", vm)
