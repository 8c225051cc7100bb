"""Further disks of a server: their names and devices, swap's header, and what a rescue does."""

import shutil
import subprocess
import uuid

import pytest

from xenith.core.errors import NotFound, Unavailable
from xenith.driver import ext4
from xenith.driver.flavor_disks import flavor_disks
from xenith.driver.names import (
    BLANK_KEY,
    config_name,
    ephemeral_name,
    instance_of,
    rescue_config_name,
    rescue_name,
    root_name,
    snapshot_name,
    swap_name,
)
from xenith.driver.swap import PAGE_BYTES, swap_header

ID = "22222222-0000-4000-8000-000000000001"
MIB = 2**20


def devices(bench):
    names = {ref: vdi["name_label"] for ref, vdi in bench.host.objects.all("VDI").items()}
    return {vbd["userdevice"]: names[vbd["VDI"]] for vbd in bench.records("VBD")}


def test_each_disk_is_of_its_instance_by_its_name_alone():
    names = [
        *(
            name(ID)
            for name in (
                root_name,
                config_name,
                snapshot_name,
                swap_name,
                rescue_name,
                rescue_config_name,
            )
        ),
        *(ephemeral_name(ID, number) for number in range(11)),
    ]
    assert len(set(names)) == len(names)
    assert {instance_of(name) for name in names} == {ID}
    for name in ("xenith-image-" + ID, "xenith-" + ID, "xenith-ephemeral-" + ID, "xenith-vm-x"):
        assert instance_of(name) is None


@pytest.mark.parametrize("gib", [1, 999, 1024, 2000, 2001, 2048, 5000])
def test_pieces_hold_all_of_an_ephemeral_disk_and_fit_into_a_vhd(gib):
    found = flavor_disks(ID, swap_mib=0, ephemeral_gib=gib)
    assert sum(disk.size_bytes for disk in found) == gib * 2**30
    assert max(disk.size_bytes for disk in found) <= 2000 * 2**30
    assert [int(disk.device) for disk in found] == list(range(4, 4 + len(found)))


@pytest.mark.skipif(shutil.which("mkswap") is None, reason="mkswap is not installed")
@pytest.mark.parametrize("size_bytes", [MIB, 64 * MIB, 3 * 2**30])
def test_a_swap_header_is_what_mkswap_writes(tmp_path, size_bytes):
    file, known_by = tmp_path / "swap", uuid.UUID(ID)
    with file.open("wb") as stream:
        stream.truncate(size_bytes)
    file.chmod(0o600)
    command = ["mkswap", "-q", "-U", ID, "-L", "swap", "-p", str(PAGE_BYTES), str(file)]
    subprocess.run(command, check=True, timeout=30)
    with file.open("rb") as stream:
        theirs = stream.read(PAGE_BYTES)
    assert swap_header(size_bytes, uuid=known_by.bytes) == theirs


async def test_a_flavors_disks_are_made_plugged_and_removed(bench, driver, make):
    spec = make(swap_mib=16, ephemeral_gib=3, config_drive=b"z" * 100)
    for _ in range(2):
        await driver.create_root_disk(spec)
        await driver.create_flavor_disks(spec)
        await driver.create_config_drive(spec)
    await driver.create_vm(spec)
    assert devices(bench) == {
        "0": root_name(ID),
        "2": swap_name(ID),
        "3": config_name(ID),
        "4": ephemeral_name(ID, 0),
    }
    sizes = {vdi["name_label"]: vdi["virtual_size"] for vdi in bench.records("VDI")}
    assert sizes[swap_name(ID)] == 16 * MIB
    assert sizes[ephemeral_name(ID, 0)] == 3 * 2**30
    await driver.destroy_instance(ID)
    assert bench.names() == [f"xenith-image-{spec.image_id}"]


async def test_a_disk_is_formatted_once_and_left_blank_without_the_tool(
    bench, driver, make, monkeypatch
):
    spec = make(swap_mib=16, ephemeral_gib=1)
    formatted = []
    inner = driver._line.import_vdi

    async def import_vdi(ref, chunks, **options):
        formatted.append(options["disk_format"])
        if len(formatted) == 1:
            raise Unavailable("the host went away")
        await inner(ref, chunks, **options)

    monkeypatch.setattr(driver._line, "import_vdi", import_vdi)
    monkeypatch.setattr(ext4, "find_tool", lambda: None)
    with pytest.raises(Unavailable):
        await driver.create_flavor_disks(spec)
    for _ in range(2):
        await driver.create_flavor_disks(spec)
    assert formatted == ["raw", "raw"]
    assert not any(BLANK_KEY in vdi["other_config"] for vdi in bench.records("VDI"))


async def test_a_vm_is_not_made_without_its_disks(driver, make):
    spec = make(swap_mib=16)
    await driver.create_root_disk(spec)
    with pytest.raises(NotFound, match="swap"):
        await driver.create_vm(spec)


async def test_disks_of_an_earlier_process_are_found_and_those_made_unheard(bench, driver, make):
    spec = make(swap_mib=16, ephemeral_gib=1)
    await driver.create_flavor_disks(spec)
    operator = await bench.operator()
    sr = next(iter(bench.host.objects.all("SR")))
    later = await bench.connect()
    # Of a call whose answer was lost.
    record = bench.records("VDI")[0] | {"name_label": rescue_name(ID), "SR": sr}
    names = ("name_label", "name_description", "SR", "virtual_size", "type")
    wanted = {name: record[name] for name in names}
    await operator.call("VDI.create", {**wanted, "other_config": {}})
    await later.create_flavor_disks(spec)
    assert bench.names() == sorted([swap_name(ID), ephemeral_name(ID, 0), rescue_name(ID)])
    assert await later.owned_instances() == {ID}
    await later.destroy_instance(ID)
    assert bench.names() == []


async def test_a_rescue_lends_the_root_disk_and_gives_it_back(bench, driver, build, make):
    spec = make(config_drive=b"z" * 100, swap_mib=16)
    await driver.create_flavor_disks(spec)
    await build(driver, spec)
    await driver.power(ID, "stop_hard", timeout_s=1)
    before = devices(bench)
    for _ in range(2):
        await driver.create_rescue_disks(spec)
        assert devices(bench) == before
        await driver.attach_rescue(ID)
        await driver.attach_rescue(ID)
        assert devices(bench) == {
            "0": rescue_name(ID),
            "1": root_name(ID),
            "2": swap_name(ID),
            "3": rescue_config_name(ID),
        }
    assert await driver.power(ID, "start", timeout_s=1) == "running"
    await driver.power(ID, "stop_hard", timeout_s=1)
    await driver.detach_rescue(ID)
    assert devices(bench) == before
    await driver.delete_rescue_disks(ID)
    await driver.delete_rescue_disks(ID)
    assert not [name for name in bench.names() if "rescue" in name]
    with pytest.raises(NotFound):
        await driver.attach_rescue(ID)


async def test_disks_at_other_devices_are_left_alone(bench, driver, build, make):
    await build(driver, make())
    await driver.power(ID, "stop_hard", timeout_s=1)
    operator = await bench.operator()
    vm = next(iter(bench.host.objects.all("VM")))
    (root,) = [
        ref
        for ref, vdi in bench.host.objects.all("VDI").items()
        if vdi["name_label"] == root_name(ID)
    ]
    volume = await operator.call("VDI.clone", root, {})
    await operator.call("VDI.set_name_label", volume, "somebody's")
    (vbd,) = bench.records("VBD")
    names = ("bootable", "mode", "type", "unpluggable", "empty", "other_config")
    wanted = {name: vbd[name] for name in names}
    await operator.call(
        "VBD.create",
        {
            **wanted,
            "VM": vm,
            "VDI": volume,
            "userdevice": "7",
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        },
    )
    await driver.create_rescue_disks(make())
    await driver.attach_rescue(ID)
    assert devices(bench)["7"] == "somebody's"
    await driver.detach_rescue(ID)
    assert devices(bench)["7"] == "somebody's"


async def test_a_rescue_disk_that_came_late_is_loose_until_a_vm_has_it(bench, driver, build, make):
    await build(driver, make())
    await driver.power(ID, "stop_hard", timeout_s=1)
    await driver.owned_instances()
    assert driver.loose_rescue_disks == {}
    await driver.create_rescue_disks(make(config_drive=b"z" * 100))
    await driver.owned_instances()
    loose = driver.loose_rescue_disks
    assert len(loose[ID]) == 2
    await driver.attach_rescue(ID)
    await driver.owned_instances()
    assert driver.loose_rescue_disks == {}
    await driver.detach_rescue(ID)
    await driver.delete_disks([*loose[ID], "OpaqueRef:gone"])
    await driver.owned_instances()
    assert driver.loose_rescue_disks == {}
