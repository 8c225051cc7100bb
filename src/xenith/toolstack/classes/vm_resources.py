"""A VM's memory and processors: what it may have, and what it has while it runs.

Source: XenAPI class VM; its memory is static_min ≤ dynamic_min ≤ dynamic_max ≤ static_max.
"""

from __future__ import annotations

from typing import Any

from xenith.toolstack.classes.lifecycle import check_halted, operation
from xenith.toolstack.classes.live import live
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Of a domain's processors. Source: Xen's credit scheduler.
WEIGHT_MAX = 65535


@method("VM.set_memory_limits", is_async=True)
def set_memory_limits(
    host: HostServer,
    ref: str,
    static_min: int,
    static_max: int,
    dynamic_min: int,
    dynamic_max: int,
) -> None:
    """Set the memory of a halted VM. Source: XenAPI VM.set_memory_limits."""
    check_halted(host, ref)
    _write(host, ref, static_min, dynamic_min, dynamic_max, static_max)


def _write(host: HostServer, ref: str, *limits: int) -> None:
    static_min, dynamic_min, dynamic_max, static_max = limits
    if not 0 <= static_min <= dynamic_min <= dynamic_max <= static_max or static_max == 0:
        raise XapiFault("MEMORY_CONSTRAINT_VIOLATION", "static_min, dynamic_min, dynamic_max, max")
    host.objects.update(
        "VM",
        ref,
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=dynamic_min,
        memory_dynamic_max=dynamic_max,
        memory_target=dynamic_max,
    )


@method("VM.set_memory", is_async=True)
def set_memory(host: HostServer, ref: str, size_bytes: int) -> None:
    """Give a halted VM an amount of memory and no less. Source: XenAPI VM.set_memory."""
    record = check_halted(host, ref)
    least = min(record["memory_static_min"], size_bytes)
    _write(host, ref, least, size_bytes, size_bytes, size_bytes)


@method("VM.set_memory_static_range", is_async=True)
def set_memory_static_range(host: HostServer, ref: str, least: int, most: int) -> None:
    """Set what the memory is always within. Source: XenAPI VM.set_memory_static_range."""
    record = check_halted(host, ref)
    _write(host, ref, least, record["memory_dynamic_min"], record["memory_dynamic_max"], most)


@method("VM.set_memory_static_min")
def set_memory_static_min(host: HostServer, ref: str, least: int) -> None:
    """Set the least memory. Source: XenAPI VM.set_memory_static_min."""
    set_memory_static_range(host, ref, least, host.objects.get("VM", ref)["memory_static_max"])


@method("VM.set_memory_static_max", is_async=True)
def set_memory_static_max(host: HostServer, ref: str, most: int) -> None:
    """Set the most memory. Source: XenAPI VM.set_memory_static_max."""
    set_memory_static_range(host, ref, host.objects.get("VM", ref)["memory_static_min"], most)


@method("VM.set_memory_dynamic_range", is_async=True)
async def set_memory_dynamic_range(host: HostServer, ref: str, least: int, most: int) -> None:
    """Set what the balloon keeps to, at once if it runs. Source: VM.set_memory_dynamic_range."""
    async with operation(host, ref, "changing_dynamic_range") as record:
        _write(host, ref, record["memory_static_min"], least, most, record["memory_static_max"])
        if record["power_state"] == "Running":
            await _balloon(host, record, most)


@method("VM.set_memory_dynamic_min", is_async=True)
async def set_memory_dynamic_min(host: HostServer, ref: str, least: int) -> None:
    """Set the least the balloon leaves. Source: XenAPI VM.set_memory_dynamic_min."""
    most = host.objects.get("VM", ref)["memory_dynamic_max"]
    await set_memory_dynamic_range(host, ref, least, most)


@method("VM.set_memory_dynamic_max", is_async=True)
async def set_memory_dynamic_max(host: HostServer, ref: str, most: int) -> None:
    """Set the most the balloon leaves. Source: XenAPI VM.set_memory_dynamic_max."""
    least = host.objects.get("VM", ref)["memory_dynamic_min"]
    await set_memory_dynamic_range(host, ref, least, most)


@method("VM.set_memory_target_live", is_async=True)
async def set_memory_target_live(host: HostServer, ref: str, target: int) -> None:
    """Have a running VM's balloon leave so much. Source: XenAPI VM.set_memory_target_live."""
    async with operation(host, ref, "changing_memory_live") as record:
        if not record["memory_dynamic_min"] <= target <= record["memory_dynamic_max"]:
            raise XapiFault("MEMORY_CONSTRAINT_VIOLATION", "dynamic_min <= target <= dynamic_max")
        await _balloon(host, record, target)
        host.objects.update("VM", ref, memory_target=target)


@method("VM.wait_memory_target_live", is_async=True)
async def wait_memory_target_live(host: HostServer, ref: str) -> None:
    """Wait until the balloon is there: a change is answered when it is, so it is there now."""
    async with operation(host, ref, "awaiting_memory_live"):
        pass


async def _balloon(host: HostServer, record: dict[str, Any], target: int) -> None:
    await live(host, record).domain_set_memory(record["uuid"], target)
    if not is_null(record["metrics"]):
        host.objects.update("VM_metrics", record["metrics"], memory_actual=target)


@method("VM.compute_memory_overhead")
def compute_memory_overhead(host: HostServer, ref: str) -> int:
    """Tell the bytes beside a VM's own that it takes: none are counted here."""
    return int(host.objects.get("VM", ref)["memory_overhead"])


@method("VM.maximise_memory", is_async=True)
def maximise_memory(host: HostServer, ref: str, total: int, approximate: bool) -> int:
    """Tell the most static memory that a total allows. Source: XenAPI VM.maximise_memory."""
    del approximate  # there is no overhead to be estimated
    return int(max(0, total - host.objects.get("VM", ref)["memory_overhead"]))


@method("VM.set_VCPUs_max")
def set_vcpus_max(host: HostServer, ref: str, count: int) -> None:
    """Set how many processors a halted VM may have. Source: XenAPI VM.set_VCPUs_max."""
    _set_vcpus(host, ref, VCPUs_max=count)


@method("VM.set_VCPUs_at_startup")
def set_vcpus_at_startup(host: HostServer, ref: str, count: int) -> None:
    """Set how many processors a halted VM begins with. Source: XenAPI VM.set_VCPUs_at_startup."""
    _set_vcpus(host, ref, VCPUs_at_startup=count)


def _set_vcpus(host: HostServer, ref: str, **given: int) -> None:
    record = check_halted(host, ref)
    both = {name: given.get(name, record[name]) for name in ("VCPUs_max", "VCPUs_at_startup")}
    if not 1 <= both["VCPUs_at_startup"] <= both["VCPUs_max"]:
        ((name, value),) = given.items()
        raise XapiFault("INVALID_VALUE", name, value)
    host.objects.update("VM", ref, **given)


@method("VM.set_VCPUs_number_live", is_async=True)
async def set_vcpus_number_live(host: HostServer, ref: str, count: int) -> None:
    """Give a running VM more or fewer processors. Source: XenAPI VM.set_VCPUs_number_live."""
    async with operation(host, ref, "changing_VCPUs_live") as record:
        if not 1 <= count <= record["VCPUs_max"]:
            raise XapiFault("INVALID_VALUE", "VCPUs_number_live", count)
        await live(host, record).domain_set_vcpus(record["uuid"], count)
        host.objects.update("VM", ref, VCPUs_at_startup=count)
        if not is_null(record["metrics"]):
            host.objects.update("VM_metrics", record["metrics"], VCPUs_number=count)


@method("VM.add_to_VCPUs_params_live", is_async=True)
async def add_to_vcpus_params_live(host: HostServer, ref: str, key: str, value: str) -> None:
    """Weigh or cap a running VM's processors now. Source: XenAPI VM.add_to_VCPUs_params_live."""
    async with operation(host, ref, "changing_VCPUs_live") as record:
        _check_param(record, key, value)
        params = {**record["VCPUs_params"], key: value}
        await live(host, record).domain_set_schedule(record["uuid"], params)
        host.objects.update("VM", ref, VCPUs_params=params)
        if not is_null(record["metrics"]):
            host.objects.update("VM_metrics", record["metrics"], VCPUs_params=params)


def _check_param(record: dict[str, Any], key: str, value: str) -> None:
    numbers = value.split(",") if key == "mask" else [value]
    if key not in ("weight", "cap", "mask") or not all(
        number.isascii() and number.isdigit() and len(number) < 6 for number in numbers
    ):
        raise XapiFault("INVALID_VALUE", f"VCPUs_params:{key}", value)
    if key == "weight" and not 1 <= int(value) <= WEIGHT_MAX:
        raise XapiFault("INVALID_VALUE", "VCPUs_params:weight", value)
    if key == "cap" and int(value) > 100 * record["VCPUs_max"]:
        raise XapiFault("INVALID_VALUE", "VCPUs_params:cap", value)


@method("VM.set_HVM_shadow_multiplier")
def set_hvm_shadow_multiplier(host: HostServer, ref: str, multiplier: float) -> None:
    """Set the shadow memory of a halted VM. Source: XenAPI VM.set_HVM_shadow_multiplier."""
    check_halted(host, ref)
    _set_shadow(host, ref, multiplier)


@method("VM.set_shadow_multiplier_live", is_async=True)
async def set_shadow_multiplier_live(host: HostServer, ref: str, multiplier: float) -> None:
    """Set the shadow memory of a running VM. Source: XenAPI VM.set_shadow_multiplier_live."""
    async with operation(host, ref, "changing_shadow_memory_live"):
        _set_shadow(host, ref, multiplier)


def _set_shadow(host: HostServer, ref: str, multiplier: float) -> None:
    if not 1.0 <= multiplier < 1000.0:
        raise XapiFault("INVALID_VALUE", "HVM_shadow_multiplier", multiplier)
    host.objects.update("VM", ref, HVM_shadow_multiplier=multiplier)
