"""The official XenAPI package, unmodified, against a host; it speaks XML-RPC and blocks."""

import asyncio
import threading
import urllib.request
from urllib.parse import urlencode

import pytest
import XenAPI

from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet

PASSWORD = "pass-the-salt"
#: The address of a second host, a pool of its own, while there is one.
SECOND: list[str] = []

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    async def start():
        world = World()
        fleet = Fleet(world)
        backend = SimBackend(
            world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB, latency_s=0.001
        )
        endpoint = await fleet.add_host("official", backend, password=PASSWORD)
        other = SimBackend(world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB)
        second = await fleet.add_host("second", other, password=PASSWORD)
        return fleet, endpoint.url, second.url

    fleet, url, second = run(start())
    SECOND.append(second)
    yield url
    SECOND.clear()
    run(fleet.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def session(url):
    session = XenAPI.Session(url)
    session.xenapi.login_with_password("root", PASSWORD, "2.21", "the official client")
    yield session
    session.xenapi.session.logout()


def record(name, **more):
    return {
        "name_label": name,
        "name_description": "",
        "user_version": "0",
        "is_a_template": False,
        "affinity": "OpaqueRef:NULL",
        "memory_static_max": str(256 * MIB),
        "memory_dynamic_max": str(256 * MIB),
        "memory_dynamic_min": str(256 * MIB),
        "memory_static_min": "0",
        "VCPUs_params": {},
        "VCPUs_max": "2",
        "VCPUs_at_startup": "2",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "dc"},
        "platform": {"acpi": "true"},
        "PCI_bus": "",
        "other_config": {"nova_uuid": "u"},
        "recommendations": "",
        "blocked_operations": {},
        "xenstore_data": {"vm-data/hostname": "h"},
        **more,
    }


def test_a_wrong_password_is_refused(url):
    session = XenAPI.Session(url)
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.login_with_password("root", "wrong")
    assert caught.value.details[:2] == ["SESSION_AUTHENTICATION_FAILED", "root"]


def test_integers_are_text_and_dates_are_dates(session):
    vm = session.xenapi.VM.create(record("types"))
    found = session.xenapi.VM.get_record(vm)
    assert found["domid"] == "-1"
    assert found["VCPUs_max"] == "2"
    assert found["is_a_template"] is False
    assert found["other_config"] == {"nova_uuid": "u"}
    assert found["snapshot_time"] == XenAPI.xmlrpclib.DateTime("19700101T00:00:00Z")
    times = [found["snapshot_time"], session.xenapi.VM.get_snapshot_time(vm)]
    times.append(session.xenapi.VM.get_all_records()[vm]["snapshot_time"])
    times.append(session.xenapi.host.get_servertime(session.xenapi.host.get_all()[0]))
    batch = session.xenapi_request("event.from", (["vm"], "", 0.0))
    times += [event["snapshot"]["snapshot_time"] for event in batch["events"]]
    assert {type(time) for time in times} == {XenAPI.xmlrpclib.DateTime}
    assert session.xenapi.VM.destroy(vm) == ""


def test_a_server_s_whole_life(session):
    api = session.xenapi
    sr = api.pool.get_default_SR(api.pool.get_all()[0])
    network = api.network.get_by_name_label("Management")[0]
    vdi = api.VDI.create(
        {
            "name_label": "disk",
            "SR": sr,
            "virtual_size": str(8 * MIB),
            "type": "User",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
    )
    vm = api.VM.create(record("life"))
    api.VBD.create(
        {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "0",
            "bootable": True,
            "mode": "RW",
            "type": "disk",
            "unpluggable": False,
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    vif = api.VIF.create(
        {
            "VM": vm,
            "network": network,
            "device": "0",
            "MAC": "fa:16:3e:00:00:01",
            "MTU": "1500",
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    task = api.Async.VM.start(vm, False, False)
    while api.task.get_status(task) == "pending":
        pass
    assert api.task.get_status(task) == "success"
    assert api.VM.get_power_state(vm) == "Running"
    assert api.VIF.get_currently_attached(vif) is True
    for method, state in (
        ("pause", "Paused"),
        ("unpause", "Running"),
        ("clean_reboot", "Running"),
        ("suspend", "Suspended"),
    ):
        getattr(api.VM, method)(vm)
        assert api.VM.get_power_state(vm) == state
    api.VM.resume(vm, False, False)
    with pytest.raises(XenAPI.Failure) as caught:
        api.VM.destroy(vm)
    assert caught.value.details == ["VM_BAD_POWER_STATE", vm, "halted, suspended", "running"]
    api.VM.clean_shutdown(vm)
    api.VM.destroy(vm)
    assert api.VDI.get_VBDs(vdi) == []
    api.VDI.destroy(vdi)
    with pytest.raises(XenAPI.Failure) as caught:
        api.VDI.get_record(vdi)
    assert caught.value.details == ["HANDLE_INVALID", "VDI", vdi]


def finished(api, task):
    """Wait for a task and give the reference that it made."""
    while api.task.get_status(task) == "pending":
        pass
    assert api.task.get_status(task) == "success", api.task.get_error_info(task)
    result = api.task.get_result(task)
    api.task.destroy(task)
    return result.removeprefix("<value>").removesuffix("</value>")


def test_a_life_from_a_template_to_another_pool(session):
    api = session.xenapi
    network = api.network.get_by_name_label("Management")[0]
    token = api.event.inject("pool", api.pool.get_all()[0])
    disks = '<provision><disk device="0" size="8388608" sr="" bootable="true" type="system"/>'
    template = api.VM.create(
        record("template", is_a_template=True, other_config={"disks": disks + "</provision>"})
    )
    vm = finished(api, api.Async.VM.clone(template, "made"))
    finished(api, api.Async.VM.provision(vm))
    api.VIF.create(
        {"VM": vm, "network": network, "device": "0", "MAC": "", "MTU": "1500", "other_config": {}}
    )
    api.VM.add_tags(vm, "web")
    finished(api, api.Async.VM.start(vm, False, False))
    api.VM.set_memory_dynamic_range(vm, str(128 * MIB), str(192 * MIB))
    api.VM.write_xenstore_key(vm, "vm-data/key", "value")
    kept = finished(api, api.Async.VM.snapshot(vm, "before", []))
    assert api.VM.get_snapshots(vm) == [kept]
    metrics = api.VM.get_metrics(vm)
    assert api.VM_metrics.get_memory_actual(metrics) == str(192 * MIB)
    api.VM.hard_shutdown(vm)
    finished(api, api.Async.VM.revert(kept))
    finished(api, api.Async.VM.start_on(vm, api.host.get_all()[0], False, False))

    there = XenAPI.Session(SECOND[0])
    there.xenapi.login_with_password("root", PASSWORD)
    their_network = there.xenapi.network.get_all()[0]
    sr = there.xenapi.SR.get_all()[0]
    dest = there.xenapi.host.migrate_receive(there.xenapi.host.get_all()[0], their_network, {})
    disk = api.VBD.get_VDI(api.VM.get_VBDs(vm)[0])
    vdi_map, vif_map = {disk: sr}, {api.VM.get_VIFs(vm)[0]: their_network}
    api.VM.assert_can_migrate(vm, dest, True, vdi_map, vif_map, {})
    uuid = api.VM.get_uuid(vm)
    moved = finished(api, api.Async.VM.migrate_send(vm, dest, True, vdi_map, vif_map, {}))
    assert there.xenapi.VM.get_uuid(moved) == uuid
    assert there.xenapi.VM.get_power_state(moved) == "Running"
    assert there.xenapi.VM.get_tags(moved) == ["web"]
    with pytest.raises(XenAPI.Failure) as caught:
        api.VM.get_record(vm)
    assert caught.value.details == ["HANDLE_INVALID", "VM", vm]

    batch = session.xenapi_request("event.from", (["vm"], token, 5.0))
    assert {event["ref"] for event in batch["events"]} >= {template, kept}
    there.xenapi.VM.hard_shutdown(moved)
    there.xenapi.VM.destroy(moved)
    for left in (kept, template):
        api.VM.destroy(left)
    there.xenapi.session.logout()


def test_every_class_that_is_listed_can_be_read(session):
    api = session.xenapi
    listed = XenAPI.Session(SECOND[0]).system.listMethods()
    for name in listed:
        if name.endswith(".get_all_records") and not name.startswith("Async."):
            assert isinstance(session.xenapi_request(name, ()), dict), name
    assert api.role.get_by_name_label("pool-admin")


def test_what_nova_asks_of_an_async_failure(session):
    api = session.xenapi
    vm = api.VM.create(record("fails"))
    task = api.Async.VM.pause(vm)
    while api.task.get_status(task) == "pending":
        pass
    assert api.task.get_error_info(task) == ["VM_BAD_POWER_STATE", vm, "running", "halted"]
    api.task.destroy(task)
    api.VM.destroy(vm)


def test_events_come_in_the_official_form(session):
    api = session.xenapi
    token = api.event.inject("pool", api.pool.get_all()[0])
    vm = api.VM.create(record("watched"))

    batch = session.xenapi_request("event.from", (["vm"], token, 5.0))
    (event,) = batch["events"]
    assert (event["class"], event["operation"], event["ref"]) == ("vm", "add", vm)
    assert event["snapshot"]["name_label"] == "watched"
    again = session.xenapi_request("event.from", (["vm"], batch["token"], 0.0))
    assert again["events"] == []
    api.VM.destroy(vm)
    batch = session.xenapi_request("event.from", (["vm"], again["token"], 5.0))
    assert [event["operation"] for event in batch["events"]] == ["del"]


def test_where_expressions_of_nova(session):
    api = session.xenapi
    host = api.host.get_all()[0]
    expression = f'field "host"="{host}" and field "management"="true"'
    assert len(api.PIF.get_all_records_where(expression)) == 1
    assert api.VM.get_all_records_where('field "is_control_domain"="true"') == {}


def test_a_forgotten_session_is_begun_anew_by_the_client(url):
    session = XenAPI.Session(url)
    session.xenapi.login_with_password("root", PASSWORD)
    session._session = "OpaqueRef:gone"
    assert len(session.xenapi.host.get_all()) == 1


def test_methods_can_be_listed_without_a_session(url):
    listed = XenAPI.Session(url).system.listMethods()
    assert {"VM.start", "Async.VM.start", "event.from", "VDI.get_virtual_size"} <= set(listed)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("VM.explode", (), "MESSAGE_METHOD_UNKNOWN"),
        ("VM.get_record", (), "MESSAGE_PARAMETER_COUNT_MISMATCH"),
        ("VM.get_by_uuid", ("no",), "UUID_INVALID"),
        ("VM.get_record", ("OpaqueRef:no",), "HANDLE_INVALID"),
        ("VM.get_all_records_where", ("field",), "INTERNAL_ERROR"),
        ("VM.create", ({"name_label": "x", "memory_static_max": "lots"},), "FIELD_TYPE_ERROR"),
        ("VDI.create", ({"name_label": "x"},), "FIELD_TYPE_ERROR"),
    ],
)
def test_misuse_has_the_code_that_xapi_gives(session, method, params, code):
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi_request(method, params)
    assert caught.value.details[0] == code


def request(url, verb, path, *, data=None, **query):
    """Move a disk's bytes as the SDK's users do: plain HTTP, and a session."""
    asked = urllib.request.Request(f"{url}{path}?{urlencode(query)}", data=data, method=verb)
    with urllib.request.urlopen(asked, timeout=20) as reply:
        return reply.read()


def test_a_backup_of_a_disk_goes_out_as_a_full_and_a_delta_and_comes_back_elsewhere(
    url, session, tmp_path
):
    xenapi = session.xenapi
    own, who = xenapi.host.get_all()[0], session.handle

    def make_sr(name):
        config = {"location": str(tmp_path / name)}
        return xenapi.SR.create(own, config, "0", name, "", "file", "user", False, {})

    def read(vdi, **query):
        return request(url, "GET", "/export_raw_vdi/", session_id=who, vdi=vdi, **query)

    def write(vdi, data, **query):
        request(url, "PUT", "/import_raw_vdi/", data=data, session_id=who, vdi=vdi, **query)

    near, far = make_sr("near"), make_sr("far")
    fields = {"virtual_size": str(8 * MIB), "type": "user", "sharable": False, "read_only": False}
    disk = xenapi.VDI.create({"SR": near, "name_label": "disk", "other_config": {}, **fields})
    write(disk, b"a" * 4 * MIB, format="raw")
    first = xenapi.VDI.snapshot(disk)
    full = read(first, format="vhd")
    write(disk, b"b" * 4096, format="raw")
    second = xenapi.VDI.snapshot(disk, {})
    delta = read(second, format="vhd", base=first)
    assert len(delta) < len(full)

    restored = xenapi.VDI.create({"SR": far, "name_label": "back", "other_config": {}, **fields})
    write(restored, full, format="vhd")
    write(restored, delta, format="vhd")
    wanted = b"b" * 4096 + b"a" * (4 * MIB - 4096) + bytes(4 * MIB)
    assert read(restored, format="raw") == read(second, format="raw") == wanted

    uuid = xenapi.VDI.get_uuid(restored)
    (pbd,) = xenapi.SR.get_PBDs(far)
    xenapi.PBD.unplug(pbd)
    xenapi.SR.forget(far)
    sr_uuid = "11111111-0000-4000-8000-000000000001"
    far = xenapi.SR.introduce(sr_uuid, "far", "", "file", "user", False, {})
    config = {"location": str(tmp_path / "far")}
    pbd = xenapi.PBD.create({"host": own, "SR": far, "device_config": config})
    xenapi.PBD.plug(pbd)
    again = xenapi.VDI.get_by_uuid(uuid)
    xenapi.VDI.forget(again)
    again = xenapi.VDI.introduce(
        uuid, "again", "", far, "user", False, False, {}, uuid, {}, {}, True, "0", "0"
    )
    assert xenapi.VDI.get_name_label(again) == "again"
    assert read(again, format="raw") == wanted
    for vdi in (disk, first, second, again):
        xenapi.VDI.destroy(vdi)
    xenapi.SR.scan(near)
