"""The command line of a QEMU is made from a spec, and nothing a tenant chose is on it."""

import json
from pathlib import Path

import pytest

from xenith.core.ids import derive_uuid
from xenith.toolstack.backends import BackendError, DiskSpec, DomainSpec, NicSpec
from xenith.toolstack.backends.qemu.command import (
    DEVICES_MAX,
    XENSTORE_PORT,
    arguments,
    disks_in_order,
)

VM = derive_uuid("vm")
MAC = "52:54:00:00:00:01"


def make(*, accelerator="tcg", name="server", memory=64 << 20, disks=(), nics=(), **rest):
    spec = DomainSpec(VM, name, memory, 2, disks, nics, **rest)
    return arguments(
        spec,
        directory=Path("/d") / VM,
        accelerator=accelerator,
        machine="pc",
    )


def made_of(*numbers):
    disks = tuple(DiskSpec(number, number) for number in numbers)
    return DomainSpec(VM, "server", 64 << 20, 1, disks)


def values(made, option):
    return [made[at + 1] for at, word in enumerate(made) if word == option]


def test_disks_come_in_the_order_of_their_numbers_and_the_first_boots():
    made = make(disks=tuple(DiskSpec(number, number) for number in ("10", "2", "0")))
    nodes = [json.loads(node) for node in values(made, "-blockdev")]
    assert [disk.device for disk in disks_in_order(made_of("10", "2", "0"))] == ["0", "2", "10"]
    sockets = [node["file"]["server"]["path"] for node in nodes]
    assert sockets == ["disk1.nbd", "disk2.nbd", "disk3.nbd"]
    boots = [device for device in values(made, "-device") if "bootindex=1" in device]
    assert boots == ["virtio-blk-pci,drive=disk1,id=disk1-device,bootindex=1"]


def test_a_disk_s_limits_are_there_from_the_beginning_and_can_be_changed():
    slow = DiskSpec("a", "0", qos_type="throttle", qos_params={"iops-total": "100"})
    made = make(disks=(slow, DiskSpec("b", "1")))
    first, second = [json.loads(one) for one in values(made, "-object") if one.startswith("{")]
    assert first["limits"]["iops-total"] == 100
    assert set(second["limits"].values()) == {0}
    nodes = [json.loads(node) for node in values(made, "-blockdev")]
    assert [node["throttle-group"] for node in nodes] == [first["id"], second["id"]]


def test_a_guest_has_a_port_to_its_xenstore_unless_its_memory_knows_none():
    devices = values(make(), "-device")
    (port,) = [device for device in devices if device.startswith("virtserialport")]
    assert port.endswith(f"name={XENSTORE_PORT}")
    spec = DomainSpec(VM, "server", 64 << 20, 2)
    place = Path("/d") / VM
    without = arguments(spec, directory=place, accelerator="tcg", machine="pc", has_xenstore=False)
    assert "xenstore" not in " ".join(without)


def test_a_cd_and_a_read_only_disk_are_opened_for_reading_only():
    made = make(disks=(DiskSpec("a", "0", is_cd=True), DiskSpec("b", "1", is_read_only=True)))
    for node in map(json.loads, values(made, "-blockdev")):
        assert node["read-only"] is True
        assert node["file"]["read-only"] is True
    assert any(device.startswith("ide-cd,") for device in values(made, "-device"))


def test_names_and_labels_that_a_tenant_chose_are_not_on_the_command_line():
    evil = "x,guest=-S -monitor"
    made = make(name=evil, platform={evil: evil}, other_config={evil: evil}, xenstore={evil: evil})
    assert not any(evil in word for word in made)


def test_the_guest_is_confined_and_waits_to_be_told_to_run():
    made = make(nics=(NicSpec("0", MAC, "n", mtu=1400),))
    for word in ("-S", "-nodefaults", "-no-user-config"):
        assert word in made
    assert values(made, "-sandbox")[0].startswith("on,")
    assert "spawn=deny" in values(made, "-sandbox")[0]
    assert values(made, "-netdev") == ["hubport,id=net0,hubid=0"]
    assert f"virtio-net-pci,netdev=net0,mac={MAC},host_mtu=1400,romfile=" in made


@pytest.mark.parametrize(("accelerator", "model"), [("kvm", "host"), ("tcg", "max")])
def test_the_processor_is_the_best_that_the_accelerator_has(accelerator, model):
    made = make(accelerator=accelerator)
    assert values(made, "-accel")[0].startswith(accelerator)
    assert values(made, "-cpu") == [model]


def test_a_bad_address_and_too_many_devices_are_refused():
    with pytest.raises(BackendError, match="MAC_INVALID"):
        make(nics=(NicSpec("0", MAC + ",x=y", "n"),))
    with pytest.raises(BackendError, match="devices"):
        make(nics=(NicSpec("0", MAC, "n"),) * (DEVICES_MAX + 1))
    with pytest.raises(BackendError, match="CDs"):
        make(disks=tuple(DiskSpec(str(n), str(n), is_cd=True) for n in range(5)))
