"""Disks of a host: their sizes, space, who uses them, what is streamed in; and console logs."""

import asyncio
import base64
import struct
import zlib

import pytest

from xenith.core.units import GIB, MIB
from xenith.toolstack.backends import BackendError
from xenith.xapi import XapiFault


async def chunks(data: bytes, size: int = 1000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def footer(size_bytes: int, *, kind: int = 3, is_good: bool = True) -> bytes:
    """Write a VHD footer. Source: VHD specification 1.0, Hard Disk Footer."""
    head = struct.pack(">8sIIQI4sI4sQQII", b"conectix", 2, 0x10000, 512, 0, b"tap\0", 0, b"\0" * 4,
                       size_bytes, size_bytes, 0, kind)  # fmt: skip
    body = head + b"\0" * (512 - len(head))
    checksum = ~sum(body) & 0xFFFFFFFF
    return body[:64] + struct.pack(">I", checksum if is_good else 1) + body[68:]


async def test_sizes_are_whole_blocks_and_only_grow(sim_host):
    vdi = await sim_host.make_vdi(size_bytes=MIB)
    assert await sim_host.call("VDI.get_virtual_size", vdi) == 2 * MIB
    await sim_host.call("VDI.resize", vdi, 5 * MIB)
    assert await sim_host.call("VDI.get_virtual_size", vdi) == 6 * MIB
    found = await sim_host.fault("VDI.resize", vdi, MIB)
    assert found == ["VDI_TOO_SMALL", vdi, str(6 * MIB)]


async def test_a_disk_larger_than_the_space_is_refused(sim_host):
    sr = (await sim_host.call("SR.get_all"))[0]
    found = await sim_host.fault("VDI.create", {"SR": sr, "virtual_size": 101 * GIB})
    assert found[0] == "SR_BACKEND_FAILURE_44"
    vdi = await sim_host.make_vdi()
    assert (await sim_host.fault("VDI.resize", vdi, 200 * GIB))[0] == "SR_BACKEND_FAILURE_44"
    assert await sim_host.call("SR.get_VDIs", sr) == [vdi]


@pytest.mark.parametrize("params", [(), ({"x": "y"},)])
async def test_a_clone_has_its_source_s_size_and_is_a_disk_of_its_own(sim_host, params):
    base = await sim_host.make_vdi("base", 8 * MIB)
    clone = await sim_host.call("VDI.clone", base, *params)
    await sim_host.call("VDI.resize", clone, 16 * MIB)
    assert await sim_host.call("VDI.get_virtual_size", base) == 8 * MIB
    await sim_host.call("VDI.destroy", base)
    assert len(await sim_host.backend.disks()) == 1


async def test_a_disk_in_use_is_not_destroyed_and_outlives_its_vm(sim_host):
    vdi, vm = await sim_host.make_vdi(), await sim_host.make_vm()
    await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    await sim_host.call("VM.start", vm, False, False)
    assert await sim_host.fault("VDI.destroy", vdi) == ["VDI_IN_USE", vdi, "destroy"]
    await sim_host.call("VM.hard_shutdown", vm)
    await sim_host.call("VM.destroy", vm)
    assert await sim_host.call("VDI.get_VBDs", vdi) == []
    await sim_host.call("VDI.destroy", vdi)
    assert await sim_host.backend.disks() == {}


async def test_a_disk_that_cannot_be_made_leaves_nothing(sim_host):
    def refuse(operation, _subject):
        if operation == "disk_create":
            raise BackendError("SR_BACKEND_FAILURE_78", "", "no", "")

    sim_host.backend.script = refuse
    sr = (await sim_host.call("SR.get_all"))[0]
    found = await sim_host.fault("VDI.create", {"SR": sr, "virtual_size": MIB})
    assert found == ["SR_BACKEND_FAILURE_78", "", "no", ""]
    assert await sim_host.call("VDI.get_all") == []
    assert await sim_host.call("SR.get_VDIs", sr) == []


async def test_a_disk_that_is_being_made_cannot_be_removed_by_who_finds_it(sim_host):
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def hold(operation, _subject):
        if operation == "disk_create":
            begun.set()
            await may_go_on.wait()

    sim_host.backend.script = hold
    making = asyncio.ensure_future(sim_host.make_vdi("slow"))
    await begun.wait()
    (found,) = await sim_host.call("VDI.get_by_name_label", "slow")
    for name, rest in (("destroy", ()), ("snapshot", ()), ("forget", ()), ("resize", (GIB,))):
        assert (await sim_host.fault(f"VDI.{name}", found, *rest))[
            0
        ] == "OTHER_OPERATION_IN_PROGRESS"
    may_go_on.set()
    assert await making == found
    await sim_host.call("VDI.destroy", found)
    assert await sim_host.backend.disks() == {}


async def test_a_raw_stream_fills_a_disk_and_counts_as_used(sim_host):
    vdi = await sim_host.make_vdi(size_bytes=2 * MIB)
    sr = (await sim_host.call("SR.get_all"))[0]
    await sim_host.session.import_raw_vdi(vdi, chunks(b"x" * 5000), timeout_s=10)
    assert await sim_host.call("VDI.get_physical_utilisation", vdi) == 5000
    assert await sim_host.call("SR.get_physical_utilisation", sr) == 5000
    await sim_host.call("VDI.destroy", vdi)
    assert await sim_host.call("SR.get_physical_utilisation", sr) == 0


async def test_a_vhd_stream_gives_the_disk_its_virtual_size(sim_host):
    vdi = await sim_host.make_vdi(size_bytes=2 * MIB)
    data = b"\0" * 3000 + footer(64 * MIB)
    await sim_host.session.import_raw_vdi(vdi, chunks(data), disk_format="vhd", timeout_s=10)
    assert await sim_host.call("VDI.get_virtual_size", vdi) == 64 * MIB


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        b"\0" * 4096,
        footer(MIB, is_good=False),
        footer(MIB, kind=5),
        footer(MIB)[:-1],
    ],
    ids=["empty", "short", "zeros", "checksum", "kind", "cut"],
)
async def test_a_corrupt_vhd_is_refused(sim_host, data):
    vdi = await sim_host.make_vdi()
    with pytest.raises(XapiFault, match="VDI_IO_ERROR"):
        await sim_host.session.import_raw_vdi(vdi, chunks(data), disk_format="vhd", timeout_s=10)
    assert await sim_host.call("VDI.get_virtual_size", vdi) == 8 * MIB
    await sim_host.call("VDI.destroy", vdi)


async def log_of(sim_host, domid) -> str:
    host = (await sim_host.call("host.get_all"))[0]
    text = await sim_host.call(
        "host.call_plugin", host, "console", "get_console_log", {"dom_id": str(domid)}
    )
    return zlib.decompress(base64.b64decode(text)).decode()


async def test_a_console_log_is_that_of_the_domain_alive_or_dead(sim_host):
    vm = await sim_host.make_vm("web", xenstore_data={"vm-data/hostname": "web-1"})
    await sim_host.call("VM.start", vm, False, False)
    domid = await sim_host.call("VM.get_domid", vm)
    assert "web-1" in await log_of(sim_host, domid)
    await sim_host.call("VM.hard_shutdown", vm)
    last = (await sim_host.call("VM.get_other_config", vm))["last_dom_id"]
    assert last == str(domid)
    assert "web-1" in await log_of(sim_host, last)


async def test_a_domid_that_two_vms_claim_gives_neither_log(sim_host):
    for name in ("one", "two"):
        await sim_host.make_vm(name, other_config={"last_dom_id": "77"})
    host = (await sim_host.call("host.get_all"))[0]
    found = await sim_host.fault(
        "host.call_plugin", host, "console", "get_console_log", {"dom_id": "77"}
    )
    assert found[0] == "XENAPI_PLUGIN_FAILURE"
