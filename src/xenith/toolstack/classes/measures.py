"""What is measured of hosts and VMs, as calls. Source: XenAPI, class data_source.

All that there is to measure is recorded from the start, so that to have a source recorded is to
know that it is there.
"""

from __future__ import annotations

from typing import Any

from xenith.toolstack.classes.lifecycle import operation
from xenith.toolstack.methods import method
from xenith.toolstack.rrd.archive import Archives
from xenith.toolstack.rrd.sampler import Sampler, archives_of_vm, sampler_of
from xenith.toolstack.rrd.sources import source
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


@method("VM.get_data_sources")
async def get_data_sources(host: HostServer, ref: str) -> list[dict[str, Any]]:
    """List what is measured of a VM. Source: XenAPI VM.get_data_sources."""
    record = host.objects.get("VM", ref)
    if record["power_state"] not in ("Running", "Paused"):
        return []
    found = await archives_of_vm(host, record["uuid"])
    return [] if found is None else _records(found)


@method("VM.query_data_source")
async def query_data_source(host: HostServer, ref: str, name: str) -> float:
    """Tell what a data source says now. Source: XenAPI VM.query_data_source."""
    return _value(await _archives(host, ref), name)


@method("VM.record_data_source")
async def record_data_source(host: HostServer, ref: str, name: str) -> None:
    """Begin to record a data source: what there is, is recorded from the start."""
    _value(await _archives(host, ref), name)


@method("VM.forget_data_source_archives")
async def forget_data_source_archives(host: HostServer, ref: str, name: str) -> None:
    """Forget what a data source said. Source: XenAPI VM.forget_data_source_archives."""
    found = await _archives(host, ref)
    _value(found, name)
    found.forget(name)


@method("host.get_data_sources")
async def host_get_data_sources(host: HostServer, ref: str) -> list[dict[str, Any]]:
    """List what is measured of a host. Source: XenAPI host.get_data_sources."""
    return _records(await _sampler(host, ref).of_host())


@method("host.query_data_source")
async def host_query_data_source(host: HostServer, ref: str, name: str) -> float:
    """Tell what a data source of a host says now. Source: XenAPI host.query_data_source."""
    return _value(await _sampler(host, ref).of_host(), name)


@method("host.record_data_source")
async def host_record_data_source(host: HostServer, ref: str, name: str) -> None:
    """Begin to record a data source: what there is, is recorded from the start."""
    _value(await _sampler(host, ref).of_host(), name)


@method("host.forget_data_source_archives")
async def host_forget_data_source_archives(host: HostServer, ref: str, name: str) -> None:
    """Forget what a data source of a host said. Source: host.forget_data_source_archives."""
    found = await _sampler(host, ref).of_host()
    _value(found, name)
    found.forget(name)


def _sampler(host: HostServer, ref: str) -> Sampler:
    host.objects.get("host", ref)
    return sampler_of(host.pool.member(ref))


async def _archives(host: HostServer, ref: str) -> Archives:
    async with operation(host, ref, "data_source_op") as record:
        found = await archives_of_vm(host, record["uuid"])
    if found is None:
        raise XapiFault("INTERNAL_ERROR", "the VM cannot be measured")
    return found


def _value(archives: Archives, name: str) -> float:
    if name not in archives.present():
        raise XapiFault("INTERNAL_ERROR", f"no data source {name[:64]}")
    return archives.value(name)


def _records(archives: Archives) -> list[dict[str, Any]]:
    return [_record(name, archives.value(name)) for name in archives.present()]


def _record(name: str, value: float) -> dict[str, Any]:
    """Give the record of a data source. Source: XenAPI class data_source."""
    told = source(name)
    return {
        "name_label": name,
        "name_description": told.description,
        "enabled": True,
        "standard": True,
        "units": told.units,
        "min": 0.0,
        "max": told.maximum,
        "value": value,
    }
