"""A build through the driver on a host that speaks XenAPI: steps done twice, cut off, undone."""

import asyncio
from collections import Counter

import pytest

from xenith.core.errors import Exhausted, Invalid, NotFound, Unavailable
from xenith.driver import image_cache, sweep


async def test_a_build_ends_in_a_running_vm_with_its_disks_and_interfaces(bench, driver, make):
    spec = make(config_drive=b"z" * 5000, root_gib=2)
    await driver.ensure_image(spec.image_id, disk_format="raw", size_bytes=1024 * 1024)
    await driver.create_root_disk(spec)
    await driver.create_config_drive(spec)
    await driver.create_vm(spec)
    assert await driver.start_vm(spec.instance_id) == "paused"
    assert await driver.run_vm(spec.instance_id) == "running"

    (vm,) = bench.records("VM")
    assert vm["power_state"] == "Running"
    assert vm["memory_static_max"] == 64 * 1024**2
    assert vm["xenstore_data"] == {"vm-data/hostname": "web"}
    vdis = {vdi["name_label"]: vdi for vdi in bench.records("VDI")}
    assert vdis["xenith-root-" + spec.instance_id]["virtual_size"] == 2 * 1024**3
    assert {vbd["userdevice"] for vbd in bench.records("VBD")} == {"0", "3"}
    (vif,) = bench.records("VIF")
    assert (vif["MAC"], vif["MTU"], vif["ipv4_allowed"]) == (
        "fa:16:3e:00:00:01",
        1450,
        ["10.0.0.5"],
    )
    assert await driver.list_instances() == {spec.instance_id: "running"}


async def test_a_build_takes_eight_calls_once_image_and_network_are_there(
    bench, driver, build, make, monkeypatch
):
    # That it was asked for is marked on the image every five minutes.
    monkeypatch.setattr(image_cache, "ASKED_MARK_S", 1e9)
    await build(driver, make())
    second = make("22222222-0000-4000-8000-000000000002")
    with bench.counted(driver) as calls:
        await build(driver, second)
    assert Counter(calls) == Counter(
        [
            "VDI.clone",
            "VDI.resize",
            "VDI.set_name_label",
            "VM.create",
            "VBD.create",
            "VIF.create",
            "VM.start",
            # A VM runs only once it is written down where it is: ADR 13.
            "VM.unpause",
        ]
    )


async def test_every_step_done_twice_makes_one_of_each(bench, driver, make):
    spec = make(config_drive=b"z" * 100)
    for _ in range(2):
        await driver.ensure_image(spec.image_id, disk_format="raw", size_bytes=1024 * 1024)
    for _ in range(2):
        await driver.create_root_disk(spec)
        await driver.create_config_drive(spec)
    for _ in range(2):
        await driver.create_vm(spec)
    for _ in range(2):
        assert await driver.start_vm(spec.instance_id) == "paused"
    for _ in range(2):
        assert await driver.run_vm(spec.instance_id) == "running"
    assert len(bench.records("VM")) == 1
    assert len(bench.records("VDI")) == 3
    assert len(bench.records("VIF")) == 1
    assert bench.opened == [spec.image_id]


async def test_a_new_process_finds_what_the_old_one_made_and_goes_on(bench, driver, make):
    spec = make(config_drive=b"z" * 100)
    await driver.ensure_image(spec.image_id, disk_format="raw", size_bytes=1024 * 1024)
    await driver.create_root_disk(spec)
    await driver.create_config_drive(spec)
    await driver.stop()

    second = await bench.connect()
    await second.ensure_image(spec.image_id, disk_format="raw", size_bytes=1024 * 1024)
    await second.create_root_disk(spec)
    await second.create_config_drive(spec)
    await second.create_vm(spec)
    await second.stop()
    assert bench.opened == [spec.image_id]

    # The VM may have been cut off between its VBDs: it is made anew, once.
    third = await bench.connect()
    await third.create_vm(spec)
    assert await third.start_vm(spec.instance_id) == "paused"
    assert await third.run_vm(spec.instance_id) == "running"
    await third.create_vm(spec)
    assert len(bench.records("VM")) == 1
    assert len(bench.records("VBD")) == 2
    assert len(bench.records("VIF")) == 1
    assert len(bench.records("VDI")) == 3


@pytest.mark.parametrize("step", ["VDI.clone", "VDI.set_name_label", "VM.create", "VIF.create"])
async def test_a_call_whose_answer_is_lost_is_looked_for_and_not_made_twice(
    bench, driver, make, build, step, monkeypatch
):
    """The host has done it, the answer has not come: the next attempt must find out."""
    monkeypatch.setattr(sweep, "CLONE_NAMELESS_MAX_S", 0.0)
    spec = make()
    await driver.ensure_image(spec.image_id, disk_format="raw", size_bytes=1024 * 1024)
    session = driver._line.session
    inner = session.call
    lost = []

    async def call(method, *params, **options):
        result = await inner(method, *params, **options)
        if method == step and not lost:
            lost.append(result)
            raise Unavailable("the answer is lost")
        return result

    session.call = call
    with pytest.raises(Unavailable, match="host h1: the answer is lost"):
        await build(driver, spec)
    assert await build(driver, spec) == "running"
    assert len(bench.records("VM")) == 1
    assert len(bench.records("VBD")) == 1
    assert len(bench.records("VIF")) == 1
    # A clone that never came to its name is swept up.
    assert await driver.owned_instances() == {spec.instance_id}
    assert bench.names() == ["xenith-image-" + spec.image_id, "xenith-root-" + spec.instance_id]


async def test_everything_of_a_server_is_removed_and_removing_it_again_is_no_error(
    bench, driver, build, make
):
    spec = make(config_drive=b"z" * 100)
    await build(driver, spec)
    for _ in range(2):
        await driver.destroy_instance(spec.instance_id)
        assert bench.records("VM") == []
        assert bench.names() == ["xenith-image-" + spec.image_id]
        assert bench.records("VIF") == []
    assert await driver.owned_instances() == set()
    assert await driver.power_state(spec.instance_id) is None


async def test_undoing_step_by_step_leaves_nothing(bench, driver, build, make):
    spec = make(config_drive=b"z" * 100)
    await build(driver, spec)
    for _ in range(2):
        await driver.delete_vm(spec.instance_id)
        await driver.delete_config_drive(spec.instance_id)
        await driver.delete_root_disk(spec.instance_id)
    assert bench.records("VM") == []
    assert bench.names() == ["xenith-image-" + spec.image_id]


async def test_a_new_process_removes_what_an_old_one_built(bench, driver, build, make):
    await build(driver, make())
    await driver.stop()
    second = await bench.connect()
    await second.destroy_instance(make().instance_id)
    assert bench.records("VM") == []
    assert len(bench.records("VDI")) == 1


async def test_removing_waits_for_a_start_that_still_runs(bench, driver, build, make):
    """A build that was cancelled while the host starts the VM leaves the host at it."""
    spec = make()
    started = asyncio.Event()
    go_on = asyncio.Event()

    async def hold(operation, _subject):
        if operation == "domain_start":
            started.set()
            await go_on.wait()

    bench.backend.script = hold
    building = asyncio.create_task(build(driver, spec))
    await started.wait()
    building.cancel()
    removing = asyncio.create_task(driver.destroy_instance(spec.instance_id))
    await asyncio.sleep(0.01)
    assert not removing.done()
    go_on.set()
    async with asyncio.timeout(5):
        await removing
    assert bench.records("VM") == []
    assert len(bench.records("VDI")) == 1


async def test_a_host_without_memory_says_that_it_is_exhausted(bench, driver, build, make):
    with pytest.raises(Exhausted, match="host h1 could not start the VM") as raised:
        await build(driver, make(ram_mib=64 * 1024))
    assert raised.value.kind == "HOST_NOT_ENOUGH_FREE_MEMORY"


async def test_a_flavor_smaller_than_the_image_is_refused(bench, driver, make, vhd_footer):
    footer = vhd_footer(2 * 1024**3)
    bench.images["big"] = [footer, footer]
    spec = make(image_id="big", image_format="vhd", image_size_bytes=1024, root_gib=1)
    with pytest.raises(Invalid, match="more than the flavor's 1 GiB"):
        await driver.create_root_disk(spec)


async def test_a_flavor_of_size_zero_keeps_the_images_size(bench, driver, make):
    spec = make(root_gib=0)
    await driver.create_root_disk(spec)
    sizes = {vdi["name_label"]: vdi["virtual_size"] for vdi in bench.records("VDI")}
    assert sizes["xenith-root-" + spec.instance_id] == sizes["xenith-image-" + spec.image_id]


async def test_a_vm_without_its_root_disk_is_not_made(driver, make):
    with pytest.raises(NotFound, match="has no root disk"):
        await driver.create_vm(make())


async def test_a_hostile_name_goes_in_as_text(bench, driver, build, make):
    await build(driver, make(name="x\x00\n</value>\u202e'; --"))
    (vm,) = bench.records("VM")
    assert vm["name_label"] == "xenith-vm-" + make().instance_id
    assert all(c.isprintable() for c in vm["name_description"])


async def test_one_network_is_made_for_many_builds_at_once(bench, driver, build, make):
    specs = [make(f"22222222-0000-4000-8000-0000000000{n:02}") for n in range(10, 20)]
    await asyncio.gather(*(build(driver, spec) for spec in specs))
    assert bench.names("network").count("xenith-n1") == 1
    assert bench.opened == [specs[0].image_id]
    assert len(bench.records("VM")) == 10


async def test_an_image_that_is_there_twice_is_removed_once_and_clones_go_on(bench, driver, make):
    spec = make()
    await driver.ensure_image(spec.image_id, disk_format="raw", size_bytes=1024 * 1024)
    (image,) = bench.records("VDI")
    # An import that was given up has come to its end after another had.
    double = {**image, "uuid": "ffffffff-0000-4000-8000-000000000001", "VBDs": []}
    double["other_config"] = {**image["other_config"], "xenith-image-complete": double["uuid"]}
    ref = bench.host.objects.create("VDI", **double)
    assert await driver.owned_instances() == set()
    assert [vdi["uuid"] for vdi in bench.records("VDI")] == [image["uuid"]]
    assert ref not in bench.host.objects.all("VDI")
    await driver.create_root_disk(spec)
    assert len(bench.records("VDI")) == 2
