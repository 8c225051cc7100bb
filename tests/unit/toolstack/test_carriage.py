"""Disks of a pool's hosts: shared by them, and carried with their bytes from SR to SR."""

import pytest

from xenith.core.units import MIB

CONTENT = b"".join(bytes([number]) * MIB for number in (1, 0, 2, 3))


async def pieces(content):
    yield content


async def make_sr(fleet, name, host, path, *, shared=False):
    config = {"location": str(path)}
    params = (host, config, 0, path.name, "", "file", "user", shared, {})
    return await fleet.call(name, "SR.create", *params)


async def make_server(fleet, sr):
    """Make a halted VM with a disk that holds something."""
    vdi = await fleet.call("a", "VDI.create", {"SR": sr, "virtual_size": len(CONTENT)})
    session = await fleet.session("a")
    await session.import_raw_vdi(vdi, pieces(CONTENT), timeout_s=10)
    await session.close()
    vm = await fleet.call("a", "VM.create", {"name_label": "web", "memory_static_max": 256 * MIB})
    await fleet.call("a", "VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    return vm, vdi


async def content_of(fleet, name, vdi):
    session = await fleet.session(name)
    found = [piece async for piece in session.export_raw_vdi(vdi, timeout_s=10)]
    await session.close()
    return b"".join(found)


@pytest.fixture
async def pair(sim_fleet):
    await sim_fleet.start("a", "b")
    return sim_fleet


async def test_a_directory_is_shared_by_the_hosts_of_a_pool(pair, tmp_path):
    b = await pair.join("b", "a")
    a = pair.host("a").ref
    sr = await make_sr(pair, "a", a, tmp_path / "shared", shared=True)
    pbds = await pair.call("a", "SR.get_PBDs", sr)
    assert {await pair.call("a", "PBD.get_host", pbd) for pbd in pbds} == {a, b}
    assert all([await pair.call("a", "PBD.get_currently_attached", pbd) for pbd in pbds])
    vm, vdi = await make_server(pair, sr)
    await pair.call("a", "VM.start_on", vm, a, False, False)
    await pair.call("a", "VM.pool_migrate", vm, b, {})
    assert await pair.call("a", "VDI.get_SR", vdi) == sr
    own, other = sorted(pbds, key=lambda pbd: pair.host("a").objects.get("PBD", pbd)["host"] == b)
    assert (await pair.fault("a", "PBD.unplug", other))[0] == "VDI_IN_USE"
    await pair.call("a", "PBD.unplug", own)
    assert await pair.call("a", "VDI.get_managed", await pair.call("a", "VDI.snapshot", vdi))


async def test_a_host_that_joins_has_the_shared_storage(pair, tmp_path):
    sr = await make_sr(pair, "a", pair.host("a").ref, tmp_path / "shared", shared=True)
    await pair.join("b", "a")
    assert sr in pair.host("b").own_storage.attached
    assert len(await pair.call("a", "SR.get_PBDs", sr)) == 2


async def test_a_disk_is_carried_to_an_sr_of_another_host_with_its_bytes(pair, tmp_path):
    b = await pair.join("b", "a")
    near = await make_sr(pair, "a", pair.host("a").ref, tmp_path / "near")
    far = await make_sr(pair, "a", b, tmp_path / "far")
    vm, vdi = await make_server(pair, near)
    dest = {"host": b, "session_id": "unused", "master": pair.url("a")}
    await pair.call("a", "VM.migrate_send", vm, dest, True, {vdi: far}, {}, {})
    assert await pair.call("a", "VDI.get_SR", vdi) == far
    assert await content_of(pair, "a", vdi) == CONTENT
    assert list((tmp_path / "near").glob("*.vhd")) == []
    await pair.call("a", "SR.scan", near)
    await pair.call("a", "SR.scan", far)
    assert await pair.call("a", "SR.get_VDIs", far) == [vdi]


async def test_a_disk_goes_to_another_pool_with_its_bytes(pair, tmp_path):
    near = await make_sr(pair, "a", pair.host("a").ref, tmp_path / "near")
    their = pair.host("b").ref
    far = await make_sr(pair, "b", their, tmp_path / "far")
    vm, vdi = await make_server(pair, near)
    network = (await pair.call("b", "network.get_all"))[0]
    receiver = await pair.session("b")
    dest = await receiver.call("host.migrate_receive", their, network, {})
    made = await pair.call("a", "VM.migrate_send", vm, dest, True, {vdi: far}, {}, {})
    (vbd,) = await pair.call("b", "VM.get_VBDs", made)
    assert await content_of(pair, "b", await pair.call("b", "VBD.get_VDI", vbd)) == CONTENT
    assert list((tmp_path / "near").glob("*.vhd")) == []
    await receiver.close()


async def test_what_an_ejected_host_had_is_gone_and_its_new_storage_is_there(pair):
    b = await pair.join("b", "a")
    sr = await pair.call("a", "PBD.get_SR", (await pair.call("a", "host.get_PBDs", b))[0])
    vdi = await pair.call("a", "VDI.create", {"SR": sr, "virtual_size": 8 * MIB})
    await pair.call("a", "VDI.snapshot", vdi)
    await pair.call("a", "pool.eject", b)
    assert pair.backends["b"]._disks == {}
    (own,) = await pair.call("b", "SR.get_all")
    await pair.call("b", "VDI.create", {"SR": own, "virtual_size": 8 * MIB})
