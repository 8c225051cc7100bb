"""VMs that go to another pool with their disks, as Nova's driver had them go."""

import asyncio

import pytest

from xenith.core.units import GIB, MIB

PASSWORD = "pass-the-salt"


class Way:
    """A VM on one pool, and what says where on another it goes."""

    def __init__(self, fleet):
        self.fleet = fleet

    async def prepare(self, *, power="Running", xenstore=None):
        call = self.fleet.call
        sr = (await call("a", "SR.get_all"))[0]
        network = (await call("a", "network.get_all"))[0]
        self.vdi = await call("a", "VDI.create", {"SR": sr, "virtual_size": 8 * MIB})
        record = {
            "name_label": "web",
            "memory_static_max": 256 * MIB,
            "other_config": {"nova_uuid": "u"},
            "xenstore_data": {"vm-data/hostname": "web-1"},
        }
        self.vm = await call("a", "VM.create", record)
        await call("a", "VBD.create", {"VM": self.vm, "VDI": self.vdi, "userdevice": "0"})
        self.vif = await call("a", "VIF.create", {"VM": self.vm, "network": network, "device": "0"})
        self.mac = await call("a", "VIF.get_MAC", self.vif)
        self.uuid = await call("a", "VM.get_uuid", self.vm)
        if power != "Halted":
            await call("a", "VM.start", self.vm, False, False)
        if power == "Suspended":
            await call("a", "VM.suspend", self.vm)
        their_host = (await call("b", "host.get_all"))[0]
        their_network = (await call("b", "network.get_all"))[0]
        self.receiver = await self.fleet.session("b")
        self.dest = await self.receiver.call("host.migrate_receive", their_host, their_network, {})
        their_sr = (await call("b", "SR.get_all"))[0]
        self.maps = ({self.vdi: their_sr}, {self.vif: their_network})

    def params(self, options=None):
        return (self.vm, self.dest, True, *self.maps, options or {})


@pytest.fixture
async def way(sim_fleet):
    await sim_fleet.start("a", "b")
    way = Way(sim_fleet)
    yield way
    await way.receiver.close()


@pytest.mark.parametrize("power", ["Running", "Suspended", "Halted"])
async def test_a_vm_goes_to_another_pool_with_its_disks_and_its_state(way, power):
    await way.prepare(power=power)
    await way.fleet.call("a", "VM.assert_can_migrate", *way.params())
    made = await way.fleet.call("a", "VM.migrate_send", *way.params())
    record = await way.fleet.call("b", "VM.get_record", made)
    assert (record["uuid"], record["power_state"]) == (way.uuid, power)
    assert record["name_label"] == "web"
    assert record["other_config"]["nova_uuid"] == "u"
    (vbd,) = record["VBDs"]
    vdi = await way.fleet.call("b", "VBD.get_VDI", vbd)
    assert await way.fleet.call("b", "VDI.get_virtual_size", vdi) == 8 * MIB
    assert await way.fleet.call("b", "VIF.get_MAC", record["VIFs"][0]) == way.mac
    assert await way.fleet.call("a", "VM.get_all") == []
    assert await way.fleet.call("a", "VDI.get_all") == []
    assert await way.fleet.backends["a"].disks() == {}
    assert await way.fleet.backends["a"].running() == {}
    if power == "Suspended":
        await way.fleet.call("b", "VM.resume", made, False, False)
    elif power == "Halted":
        await way.fleet.call("b", "VM.start", made, False, False)
    keys = await way.fleet.call("b", "VM.read_xenstore_keys", made, "vm-data/")
    assert keys == {"vm-data/hostname": "web-1"}
    await way.fleet.restart("a", "b")
    assert await way.fleet.call("b", "VM.get_power_state", made) == "Running"


async def test_a_copy_of_a_halted_vm_goes_and_the_vm_stays(way):
    await way.prepare(power="Halted")
    made = await way.fleet.call("a", "VM.migrate_send", *way.params({"copy": "true"}))
    assert await way.fleet.call("a", "VM.get_uuid", way.vm) == way.uuid
    assert await way.fleet.call("b", "VM.get_uuid", made) != way.uuid
    await way.fleet.call("a", "VM.start", way.vm, False, False)
    fault = await way.fleet.fault("a", "VM.migrate_send", *way.params({"copy": "true"}))
    assert fault == ["VM_BAD_POWER_STATE", way.vm, "halted", "running"]


async def test_what_is_in_no_map_is_named(way):
    await way.prepare()
    disks, cards = way.maps
    for maps, fault in (
        (({}, cards), ["VDI_NOT_IN_MAP", way.vdi]),
        ((disks, {}), ["VIF_NOT_IN_MAP", way.vif]),
    ):
        for name in ("assert_can_migrate", "migrate_send"):
            params = (way.vm, way.dest, True, *maps, {})
            assert await way.fleet.fault("a", f"VM.{name}", *params) == fault


async def test_a_destination_that_cannot_take_the_vm_says_why(way):
    await way.prepare()
    big = await way.fleet.call("b", "VM.create", {"name_label": "x", "memory_static_max": 2 * GIB})
    await way.fleet.call("b", "VM.start", big, False, False)
    fault = await way.fleet.fault("a", "VM.assert_can_migrate", *way.params())
    assert fault == ["HOST_NOT_ENOUGH_FREE_MEMORY", str(256 * MIB), "0"]
    await way.fleet.call("b", "VM.hard_shutdown", big)
    await way.fleet.call("b", "host.disable", way.dest["host"])
    fault = await way.fleet.fault("a", "VM.assert_can_migrate", *way.params())
    assert fault == ["HOST_DISABLED", way.dest["host"]]
    way.dest["session_id"] = "OpaqueRef:none"
    fault = await way.fleet.fault("a", "VM.migrate_send", *way.params())
    assert fault[0] == "SESSION_INVALID"
    way.fleet.host("b").die()
    fault = await way.fleet.fault("a", "VM.migrate_send", *way.params())
    assert fault == ["CANNOT_CONTACT_HOST", way.dest["host"]]
    assert (await way.fleet.fault("a", "VM.migrate_send", way.vm, {}, True, {}, {}, {}))[0] == (
        "INVALID_VALUE"
    )


async def test_a_migration_that_fails_leaves_the_vm_here_and_nothing_there(way):
    await way.prepare()

    def fail(operation, _subject):
        if operation == "domain_receive":
            raise RuntimeError

    way.fleet.backends["b"].script = fail
    assert (await way.fleet.fault("a", "VM.migrate_send", *way.params()))[0] == "INTERNAL_ERROR"
    assert await way.fleet.call("a", "VM.get_power_state", way.vm) == "Running"
    assert len(await way.fleet.backends["a"].running()) == 1
    assert await way.fleet.call("b", "VM.get_all") == []
    assert await way.fleet.call("b", "VDI.get_all") == []
    way.fleet.backends["b"].script = None
    await way.fleet.call("a", "VM.migrate_send", *way.params())


async def test_a_vm_whose_receiver_may_have_it_runs_here_no_more(way):
    await way.prepare()

    def die(operation, _subject):
        if operation == "domain_receive":
            way.fleet.host("b").die()

    way.fleet.backends["b"].script = die
    fault = await way.fleet.fault("a", "VM.migrate_send", *way.params())
    assert fault[0] == "VM_MIGRATE_FAILED"
    assert await way.fleet.call("a", "VM.get_power_state", way.vm) == "Halted"
    assert await way.fleet.backends["a"].running() == {}
    await way.fleet.call("a", "VM.start", way.vm, False, False)


async def test_a_sender_that_is_killed_while_it_hands_a_vm_over_does_not_run_it_again(way):
    await way.prepare()
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(operation, _subject):
        if operation == "domain_receive":
            begun.set()
            await never.wait()

    way.fleet.backends["b"].script = hang
    sending = asyncio.ensure_future(way.fleet.call("a", "VM.migrate_send", *way.params()))
    await begun.wait()
    journal = (way.fleet.directory / "journal").read_bytes()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await way.fleet.kill()
    (way.fleet.directory / "journal").write_bytes(journal)
    await way.fleet.start("a", "b")
    assert await way.fleet.call("a", "VM.get_power_state", way.vm) == "Halted"
    assert await way.fleet.backends["a"].running() == {}


async def test_disks_move_between_hosts_of_one_pool(way):
    fleet = way.fleet
    await way.prepare()
    await fleet.call("a", "VM.create", {"name_label": "stays", "memory_static_max": GIB})
    b = await fleet.join("b", "a")
    sr = await fleet.call("a", "PBD.get_SR", (await fleet.call("a", "host.get_PBDs", b))[0])
    dest = {"host": b, "session_id": "unused", "master": fleet.url("a")}
    fault = await fleet.fault("a", "VM.migrate_send", way.vm, dest, True, {}, {}, {})
    assert fault[:2] == ["VDI_NOT_IN_MAP", way.vdi]
    same = await fleet.call("a", "VM.migrate_send", way.vm, dest, True, {way.vdi: sr}, {}, {})
    assert same == way.vm
    assert await fleet.call("a", "VM.get_resident_on", way.vm) == b
    assert await fleet.call("a", "VDI.get_SR", way.vdi) == sr
    assert len(await fleet.backends["b"].disks()) == 1
    assert await fleet.backends["a"].disks() == {}


async def test_a_disk_moves_to_another_sr_under_its_name(sim_fleet):
    await sim_fleet.start("a")
    objects = sim_fleet.host("a").objects
    (old,) = await sim_fleet.call("a", "SR.get_all")
    new = objects.create("SR", name_label="other", type="nfs", physical_size=2**30)
    at = {"host": objects.only("host"), "SR": new, "device_config": {}}
    pbd = await sim_fleet.call("a", "PBD.create", at)
    vdi = await sim_fleet.call("a", "VDI.create", {"SR": old, "virtual_size": 2**21})
    assert (await sim_fleet.fault("a", "VDI.pool_migrate", vdi, new, {}))[0] == "SR_NOT_ATTACHED"
    await sim_fleet.call("a", "PBD.plug", pbd)
    before = await sim_fleet.call("a", "VDI.checksum", vdi)
    assert await sim_fleet.call("a", "VDI.pool_migrate", vdi, new, {}) == vdi
    assert await sim_fleet.call("a", "SR.get_VDIs", old) == []
    assert await sim_fleet.call("a", "SR.get_VDIs", new) == [vdi]
    assert await sim_fleet.call("a", "VDI.checksum", vdi) == before
    assert before == "b2d1236c286a3c0704224fe4105eca49", "the MD5 of two MiB of zeros"
