"""What every class has: the methods that its table of fields implies."""

import pytest

from xenith.toolstack.classes import table
from xenith.toolstack.schema import CLASSES

SHOWN = [name for name in CLASSES if name not in ("session", "task", "VM_metrics", "console")]


@pytest.fixture
async def furnished(sim_host):
    """A host that has at least one object of every class."""
    vm = await sim_host.make_vm("vm")
    vdi = await sim_host.make_vdi()
    network = (await sim_host.call("network.get_all"))[0]
    await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi})
    await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    await sim_host.call("VM.start", vm, False, False)
    await sim_host.call("task.create", "mine", "")
    await sim_host.call("host_cpu.get_all")
    return sim_host


async def test_a_record_has_the_fields_of_its_class_and_no_others(furnished):
    for class_name in set(CLASSES) - {"session"}:
        if not furnished.server.objects.all(class_name):
            furnished.server.objects.create(class_name)
        refs = await furnished.call(f"{class_name}.get_all")
        record = await furnished.call(f"{class_name}.get_record", refs[0])
        assert record.keys() == CLASSES[class_name].keys(), class_name
        everything = await furnished.call(f"{class_name}.get_all_records")
        assert everything.keys() == set(refs)
        assert everything[refs[0]] == record
        for field, value in record.items():
            if (class_name, field) == ("VTPM", "contents"):
                continue  # what is kept there, and not where
            assert await furnished.call(f"{class_name}.get_{field}", refs[0]) == value
        assert await furnished.call(f"{class_name}.get_by_uuid", record["uuid"]) == refs[0]


async def test_an_object_that_is_not_there_is_named_in_the_fault(sim_host):
    for class_name in SHOWN:
        lost = await sim_host.fault(f"{class_name}.get_record", "OpaqueRef:lost")
        assert lost == ["HANDLE_INVALID", class_name, "OpaqueRef:lost"]
        unknown = await sim_host.fault(f"{class_name}.get_by_uuid", "0-0")
        assert unknown == ["UUID_INVALID", class_name, "0-0"]


def test_only_fields_that_clients_write_have_setters():
    methods = table()
    for class_name, fields in CLASSES.items():
        for name, field in fields.items():
            is_written = f"{class_name}.set_{name}" in methods
            assert is_written or field.access != "RW", f"{class_name}.{name}"
            if field.access == "RW" and field.kind == "map":
                assert f"{class_name}.add_to_{name}" in methods
                assert f"{class_name}.remove_from_{name}" in methods
    assert "VM.set_power_state" not in methods
    assert "VM.set_uuid" not in methods


async def test_keys_of_a_map_are_added_once_and_removed_without_fuss(sim_host):
    vm = await sim_host.make_vm()
    uuid = await sim_host.call("VM.get_uuid", vm)
    await sim_host.call("VM.add_to_other_config", vm, "k", "v")
    again = await sim_host.fault("VM.add_to_other_config", vm, "k", "w")
    assert again == ["MAP_DUPLICATE_KEY", "VM", "other_config", uuid, "k"]
    await sim_host.call("VM.remove_from_other_config", vm, "k")
    await sim_host.call("VM.remove_from_other_config", vm, "k")
    assert await sim_host.call("VM.get_other_config", vm) == {}


async def test_members_of_a_set_are_added_and_removed_again_and_again(sim_host):
    vm = await sim_host.make_vm()
    for _ in range(2):
        await sim_host.call("VM.add_tags", vm, "blue")
    assert await sim_host.call("VM.get_tags", vm) == ["blue"]
    for _ in range(2):
        await sim_host.call("VM.remove_tags", vm, "blue")
    assert await sim_host.call("VM.get_tags", vm) == []


async def test_a_name_finds_all_that_bear_it_and_follows_a_renaming(sim_host):
    first, second = await sim_host.make_vm("twin"), await sim_host.make_vm("twin")
    assert set(await sim_host.call("VM.get_by_name_label", "twin")) == {first, second}
    await sim_host.call("VM.set_name_label", second, "other")
    assert await sim_host.call("VM.get_by_name_label", "twin") == [first]
    assert await sim_host.call("VM.get_by_name_label", "other") == [second]
    await sim_host.call("VM.destroy", first)
    assert await sim_host.call("VM.get_by_name_label", "twin") == []


async def test_records_of_one_class_share_no_defaults(sim_host):
    first, second = await sim_host.make_vm(), await sim_host.make_vm()
    await sim_host.call("VM.add_to_platform", first, "acpi", "true")
    await sim_host.call("VM.add_tags", first, "x")
    assert await sim_host.call("VM.get_platform", second) == {}
    assert await sim_host.call("VM.get_tags", second) == []


@pytest.mark.parametrize(
    ("method", "params", "fault"),
    [
        ("VM.no_such", [], ["MESSAGE_METHOD_UNKNOWN", "VM.no_such"]),
        ("Async.VM.get_record", [""], ["MESSAGE_METHOD_UNKNOWN", "Async.VM.get_record"]),
        ("VM.get_record", [], ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_record", "2", "1"]),
        ("VM.get_record", [[]], ["FIELD_TYPE_ERROR", "VM.get_record"]),
        ("VM.create", ["no record"], ["FIELD_TYPE_ERROR", "record"]),
        ("VBD.create", [{}], ["FIELD_TYPE_ERROR", "VM"]),
    ],
)
async def test_a_wrong_call_is_refused_by_what_is_wrong(sim_host, method, params, fault):
    assert await sim_host.fault(method, *params) == fault


async def test_a_fault_of_our_own_is_told_without_what_the_client_sent(sim_host, monkeypatch):
    def broken(*_args):
        raise RuntimeError("hunter2")

    monkeypatch.setattr(sim_host.server.objects, "by_label", broken)
    fault = await sim_host.fault("VM.get_by_name_label", "x")
    assert fault == ["INTERNAL_ERROR", "VM.get_by_name_label"]
