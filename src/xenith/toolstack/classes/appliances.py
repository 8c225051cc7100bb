"""VMs that belong together: appliances that start in an order, and groups for their placing.

Source: XenAPI classes VM_appliance, VM_group.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from xenith.toolstack.classes import vm as vms
from xenith.toolstack.methods import creation, method
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault


@method("VM_appliance.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make an appliance without VMs. Source: XenAPI VM_appliance.create."""
    operations = ["start", "clean_shutdown", "hard_shutdown", "shutdown"]
    fields = creation("VM_appliance", record)
    return host.objects.create("VM_appliance", allowed_operations=operations, **fields)


@method("VM_appliance.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Remove an appliance; its VMs stay. Source: XenAPI VM_appliance.destroy."""
    for vm in host.objects.get("VM_appliance", ref)["VMs"]:
        host.objects.update("VM", vm, appliance=NULL)
    host.objects.delete("VM_appliance", ref)


@method("VM_appliance.start", is_async=True)
async def start(host: HostServer, ref: str, paused: bool) -> None:
    """Start an appliance's VMs in their order, each so long after. Source: VM_appliance.start."""
    for batch in _in_order(host, ref, "Halted"):
        for vm in batch:
            await vms.start(host, vm, paused, False)
        await host.world.clock.sleep(_delay_s(host, batch, "start_delay"))


@method("VM_appliance.clean_shutdown", is_async=True)
async def clean_shutdown(host: HostServer, ref: str) -> None:
    """Ask the VMs to shut down, the last first. Source: VM_appliance.clean_shutdown."""
    await _stop(host, ref, vms.clean_shutdown)


@method("VM_appliance.hard_shutdown", is_async=True)
async def hard_shutdown(host: HostServer, ref: str) -> None:
    """Cut the VMs' power, the last first. Source: XenAPI VM_appliance.hard_shutdown."""
    await _stop(host, ref, vms.hard_shutdown)


@method("VM_appliance.shutdown", is_async=True)
async def shutdown(host: HostServer, ref: str) -> None:
    """Ask the VMs, and cut the power of those that do not. Source: VM_appliance.shutdown."""
    await _stop(host, ref, vms.shutdown)


async def _stop(
    host: HostServer, ref: str, end: Callable[[HostServer, str], Awaitable[None]]
) -> None:
    for batch in reversed(_in_order(host, ref, "Running")):
        for vm in batch:
            await end(host, vm)
        await host.world.clock.sleep(_delay_s(host, batch, "shutdown_delay"))


def _in_order(host: HostServer, ref: str, power: str) -> list[list[str]]:
    """Group the VMs of a state by their place in the order."""
    rows = [(host.objects.get("VM", vm), vm) for vm in host.objects.get("VM_appliance", ref)["VMs"]]
    found = sorted(
        ((row["order"], vm) for row, vm in rows if row["power_state"] == power),
        key=lambda pair: pair[0],
    )
    grouped = itertools.groupby(found, key=lambda pair: pair[0])
    return [[vm for _, vm in pairs] for _, pairs in grouped]


def _delay_s(host: HostServer, batch: list[str], field: str) -> float:
    return float(max(host.objects.get("VM", vm)[field] for vm in batch))


@method("VM_group.create", is_async=True)
def create_group(host: HostServer, record: dict[str, Any]) -> str:
    """Make a group of VMs that are to be together, or apart. Source: XenAPI VM_group.create."""
    fields = creation("VM_group", record)
    if fields.get("placement", "normal") not in ("normal", "anti_affinity"):
        raise XapiFault("INVALID_VALUE", "placement", fields["placement"])
    return host.objects.create("VM_group", **fields)


@method("VM_group.destroy", is_async=True)
def destroy_group(host: HostServer, ref: str) -> None:
    """Remove a group; its VMs stay. Source: XenAPI VM_group.destroy."""
    for vm in host.objects.get("VM_group", ref)["VMs"]:
        host.objects.unlink("VM", vm, "groups", ref)
    host.objects.delete("VM_group", ref)
