"""Pools of several hosts: who answers, who joins and leaves, and what a killed process keeps."""

import pytest

from xenith.core.units import GIB, MIB
from xenith.toolstack.journal import Entry, Journal
from xenith.xapi import XapiFault, XapiSession

PASSWORD = "pass-the-salt"


@pytest.fixture
async def pool(sim_fleet):
    """A pool of two hosts, led by a."""
    await sim_fleet.start("a", "b")
    await sim_fleet.join("b", "a")
    return sim_fleet


async def share_storage(pool, led_by="a"):
    """Make an SR that both hosts see."""
    host = pool.host(led_by).ref
    params = (host, {}, 0, "shared", "", "nfs", "user", True, {})
    return await pool.call(led_by, "SR.create", *params)


async def make_server(pool, sr, **fields):
    vdi = await pool.call("a", "VDI.create", {"SR": sr, "virtual_size": 8 * MIB})
    vm = await pool.call(
        "a", "VM.create", {"name_label": "web", "memory_static_max": 256 * MIB, **fields}
    )
    await pool.call("a", "VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    return vm, vdi


async def test_a_host_that_joins_is_seen_in_the_pool_with_its_storage_and_vms(sim_fleet):
    await sim_fleet.start("a", "b")
    vm = await sim_fleet.call("b", "VM.create", {"name_label": "x", "memory_static_max": GIB})
    ref = await sim_fleet.join("b", "a")
    assert len(await sim_fleet.call("a", "pool.get_all")) == 1
    assert await sim_fleet.call("a", "host.get_name_label", ref) == "b"
    assert len(await sim_fleet.call("a", "SR.get_all")) == 2
    assert await sim_fleet.call("a", "VM.get_name_label", vm) == "x"
    networks = await sim_fleet.call("a", "network.get_all_records")
    (cards,) = (record["PIFs"] for record in networks.values())
    assert len(cards) == 2


async def test_a_host_of_a_pool_names_its_coordinator_to_all_who_call_it(pool):
    with pytest.raises(XapiFault) as caught:
        await pool.session("b")
    assert caught.value.description == ["HOST_IS_SLAVE", pool.host("a").address]


async def test_joins_that_cannot_be_are_refused_with_the_reason(sim_fleet):
    await sim_fleet.start("a", "b")
    address = sim_fleet.host("a").address

    async def why(*params):
        return await sim_fleet.fault("b", "pool.join", *params)

    assert (await why(address, "root", "wrong"))[0] == "SESSION_AUTHENTICATION_FAILED"
    assert await why("127.0.0.1:1", "root", PASSWORD) == ["POOL_JOINING_HOST_CONNECTION_FAILED"]
    assert (await why("a b\n", "root", PASSWORD))[0] == "INVALID_VALUE"
    own = sim_fleet.host("b").address
    assert (await why(own, "root", PASSWORD))[0] == "OPERATION_NOT_ALLOWED"
    host_a = sim_fleet.host("a")
    info = host_a.objects.get("host", host_a.ref)["cpu_info"]
    host_a.objects.update("host", host_a.ref, cpu_info={**info, "modelname": "another"})
    assert await why(address, "root", PASSWORD) == ["POOL_HOSTS_NOT_HOMOGENEOUS", "CPUs differ"]
    vm = await sim_fleet.call("b", "VM.create", {"name_label": "x", "memory_static_max": GIB})
    await sim_fleet.call("b", "VM.start", vm, False, False)
    assert await why(address, "root", PASSWORD) == ["POOL_JOINING_HOST_CANNOT_HAVE_RUNNING_VMS"]
    await sim_fleet.call("b", "VM.hard_shutdown", vm)
    await sim_fleet.call("b", "pool.join_force", address, "root", PASSWORD)
    assert len(await sim_fleet.call("a", "host.get_all")) == 2


async def test_a_vm_starts_where_it_is_told_to_and_else_where_there_is_most_memory(pool):
    sr = await share_storage(pool)
    a, b = pool.host("a").ref, pool.host("b").ref
    vm, _ = await make_server(pool, sr)
    await pool.call("a", "VM.start_on", vm, b, False, False)
    assert await pool.call("a", "VM.get_resident_on", vm) == b
    assert await pool.call("a", "host.get_resident_VMs", b) == [vm]
    assert len(await pool.backends["b"].running()) == 1
    assert await pool.backends["a"].running() == {}
    assert await pool.call("a", "host.compute_free_memory", b) == 2 * GIB - 256 * MIB
    second, _ = await make_server(pool, sr)
    await pool.call("a", "VM.start", second, False, False)
    assert await pool.call("a", "VM.get_resident_on", second) == a


async def test_a_vm_on_one_host_s_disks_starts_there_alone(pool):
    a, b = pool.host("a").ref, pool.host("b").ref
    pbd = pool.host("a").objects.get("host", b)["PBDs"][0]
    sr = await pool.call("a", "PBD.get_SR", pbd)
    vm, vdi = await make_server(pool, sr)
    uuid = await pool.call("a", "VDI.get_uuid", vdi)
    assert uuid in await pool.backends["b"].disks()
    assert await pool.call("a", "VM.get_possible_hosts", vm) == [b]
    assert await pool.fault("a", "VM.assert_can_boot_here", vm, a) == ["VM_REQUIRES_SR", vm, sr]
    assert await pool.fault("a", "VM.start_on", vm, a, False, False) == ["VM_REQUIRES_SR", vm, sr]
    await pool.call("a", "VM.start", vm, False, False)
    assert await pool.call("a", "VM.get_resident_on", vm) == b
    await pool.call("a", "host.disable", b)
    await pool.call("a", "VM.hard_shutdown", vm)
    assert await pool.fault("a", "VM.start", vm, False, False) == ["NO_HOSTS_AVAILABLE"]


async def test_a_running_vm_moves_to_another_host_of_the_pool(pool):
    sr = await share_storage(pool)
    a, b = pool.host("a").ref, pool.host("b").ref
    vm, _ = await make_server(pool, sr, xenstore_data={"vm-data/k": "v"})
    await pool.call("a", "VM.start_on", vm, a, False, False)
    before = await pool.call("a", "VM.get_domid", vm)
    await pool.call("a", "VM.pool_migrate", vm, b, {"live": "true"})
    record = await pool.call("a", "VM.get_record", vm)
    assert (record["resident_on"], record["power_state"]) == (b, "Running")
    assert record["domid"] == before  # the first domain of another host
    assert await pool.backends["a"].running() == {}
    assert await pool.call("a", "VM.read_xenstore_keys", vm, "vm-data/") == {"vm-data/k": "v"}
    assert await pool.call("a", "host.compute_free_memory", a) == 2 * GIB
    await pool.call("a", "VM.clean_reboot", vm)
    await pool.call("a", "VM.suspend", vm)
    await pool.call("a", "VM.resume_on", vm, a, False, False)
    assert await pool.call("a", "VM.get_resident_on", vm) == a


async def test_a_move_that_fails_leaves_the_vm_where_it_was(pool):
    sr = await share_storage(pool)
    a, b = pool.host("a").ref, pool.host("b").ref
    vm, _ = await make_server(pool, sr)
    await pool.call("a", "VM.start_on", vm, a, False, False)

    def fail(operation, _subject):
        if operation == "domain_receive":
            raise RuntimeError

    pool.backends["b"].script = fail
    assert (await pool.fault("a", "VM.pool_migrate", vm, b, {}))[0] == "INTERNAL_ERROR"
    assert await pool.call("a", "VM.get_resident_on", vm) == a
    assert len(await pool.backends["a"].running()) == 1
    big = await pool.call("a", "VM.create", {"name_label": "big", "memory_static_max": 2 * GIB})
    await pool.call("a", "VM.start_on", big, b, False, False)
    fault = await pool.fault("a", "VM.pool_migrate", vm, b, {})
    assert fault == ["HOST_NOT_ENOUGH_FREE_MEMORY", str(256 * MIB), "0"]


async def test_a_host_that_is_ejected_is_a_pool_of_its_own_and_empty(pool):
    b = pool.host("b").ref
    uuid = await pool.call("a", "host.get_uuid", b)
    fault = await pool.fault("a", "pool.eject", pool.host("a").ref)
    assert fault == ["HOST_IS_MASTER", pool.host("a").ref]
    await pool.call("a", "pool.eject", b)
    assert len(await pool.call("a", "host.get_all")) == 1
    assert len(await pool.call("a", "SR.get_all")) == 1
    (own,) = await pool.call("b", "host.get_all")
    assert await pool.call("b", "host.get_uuid", own) != uuid
    await pool.join("b", "a")
    assert len(await pool.call("a", "host.get_all")) == 2


async def test_another_host_is_made_to_answer(pool):
    session = await pool.session("a")
    b = pool.host("b").ref
    await session.call("pool.designate_new_master", b)
    with pytest.raises(XapiFault, match="HOST_IS_SLAVE"):
        await session.call("host.get_all")
    await session.close()
    assert len(await pool.call("b", "host.get_all")) == 2
    (ref,) = await pool.call("b", "pool.get_all")
    assert await pool.call("b", "pool.get_master", ref) == b


async def test_the_pool_is_recovered_when_its_coordinator_dies(pool):
    sr = await share_storage(pool)
    vm, _ = await make_server(pool, sr)
    await pool.call("a", "VM.start_on", vm, pool.host("b").ref, True, False)
    await pool.add("c")
    await pool.join("c", "a")
    a, b, c = (pool.host(name).ref for name in "abc")
    pool.host("a").die()
    session = XapiSession.adopt(pool.url("b"), pool.host("b").login("root", PASSWORD, "local"))
    await session.call("pool.emergency_transition_to_master")
    await session.close()
    assert await pool.call("b", "VM.get_power_state", vm) == "Paused"
    metrics = await pool.call("b", "host.get_metrics", a)
    assert not await pool.call("b", "host_metrics.get_live", metrics)
    assert await pool.call("b", "pool.recover_slaves") == [c]
    assert await pool.fault("b", "VM.start_on", vm, a, False, False) != []
    fault = await pool.fault("b", "pool.designate_new_master", a)
    assert fault == ["HOST_OFFLINE", a]
    assert await pool.fault("b", "host.destroy", c) == ["HOST_IS_LIVE", c]
    await pool.call("b", "host.destroy", a)
    assert set(await pool.call("b", "host.get_all")) == {b, c}


async def test_a_killed_pool_is_as_it_was(pool):
    sr = await share_storage(pool)
    b = pool.host("b").ref
    vm, _ = await make_server(pool, sr)
    await pool.call("a", "VM.start_on", vm, b, False, False)
    await pool.call("a", "pool.designate_new_master", b)
    await pool.restart("a", "b")
    record = await pool.call("b", "VM.get_record", vm)
    assert (record["power_state"], record["resident_on"]) == ("Running", b)
    assert len(await pool.backends["b"].running()) == 1
    assert await pool.backends["a"].running() == {}
    with pytest.raises(XapiFault, match="HOST_IS_SLAVE"):
        await pool.session("a")
    await pool.call("b", "VM.hard_shutdown", vm)
    await pool.call("b", "pool.eject", pool.host("a").ref)
    await pool.restart("b", "a")
    assert len(await pool.call("a", "host.get_all")) == 1
    assert len(await pool.call("b", "host.get_all")) == 1


async def test_an_event_of_every_host_is_told_by_the_coordinator(pool):
    session = await pool.session("a")
    token = (await session.events(["vm"], "", 0.0)).token
    vm = await pool.call("a", "VM.create", {"name_label": "x", "memory_static_max": GIB})
    await pool.call("a", "VM.start_on", vm, pool.host("b").ref, False, False)
    pool.backends["b"].change(await pool.call("a", "VM.get_uuid", vm), "halted")
    batch = await session.events(["vm"], token, 1.0)
    assert batch.events[-1]["snapshot"]["power_state"] == "Halted"
    await session.close()


async def test_a_host_that_is_back_before_its_coordinator_names_it(pool):
    address = pool.host("a").address
    await pool.kill()
    await pool.start("b")
    with pytest.raises(XapiFault) as caught:
        await pool.session("b")
    assert caught.value.description == ["HOST_IS_SLAVE", address]
    await pool.add("a")
    assert len(await pool.call("a", "host.get_all")) == 2


async def test_a_host_of_a_journal_from_before_pools_is_as_it_was(sim_fleet):
    await sim_fleet.start("a")
    (own,) = await sim_fleet.call("a", "host.get_all")
    uuid, port = await sim_fleet.call("a", "host.get_uuid", own), sim_fleet.host("a").address
    await sim_fleet.kill()
    journal = Journal(sim_fleet.directory / "journal")
    entries = [
        Entry(entry.host, "address", "", {"port": entry.record["port"]})
        if entry.class_name == "address"
        else entry
        for entry in journal.read()
    ]
    journal.begin(entries)
    journal.close()
    await sim_fleet.start("a")
    assert sim_fleet.host("a").address == port
    assert await sim_fleet.call("a", "host.get_uuid", own) == uuid
