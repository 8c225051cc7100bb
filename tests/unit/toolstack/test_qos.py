"""What clients say of a disk's input and output, over XenAPI, and what it means."""

import pytest

from xenith.toolstack.qos import limits_of
from xenith.xapi import XapiFault


def test_a_weight_is_what_xapi_s_words_mean():
    assert limits_of("ionice", {})[:2] == (2, 4)
    assert limits_of("ionice", {"sched": "rt", "class": "highest"})[:2] == (1, 0)
    assert limits_of("ionice", {"sched": "idle", "class": "7"})[:2] == (3, 7)


def test_limits_are_qemu_s_and_what_is_not_known_limits_nothing():
    given = {"iops-total": "100", "iops-total-max": "1000", "bps-read": "5"}
    assert limits_of("throttle", given).throttle == {
        "iops-total": 100,
        "iops-total-max": 1000,
        "bps-read": 5,
    }
    assert limits_of("", {"x": "y"}) == limits_of("unheard-of", {}) == limits_of("throttle", {})


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("ionice", {"sched": "deadline"}),
        ("ionice", {"class": "8"}),
        ("ionice", {"class": ""}),
        ("throttle", {"iops": "5"}),
        ("throttle", {"iops-total": "-5"}),
        ("throttle", {"iops-total": "\u0665"}),
        ("throttle", {"iops-total": "1" + "0" * 16}),
        ("throttle", {"iops-total-max": "5"}),
        ("throttle", {"bps-total": "5", "bps-read": "5"}),
    ],
)
def test_nonsense_is_refused(kind, params):
    with pytest.raises(XapiFault, match="INVALID_VALUE"):
        limits_of(kind, params)


async def test_a_vbd_s_limits_reach_the_domain_and_can_be_changed(sim_host):
    told = []

    async def hear(vm, disk):
        told.append((vm, disk.qos_type, dict(disk.qos_params)))

    sim_host.backend.set_qos = hear
    vdi, vm = await sim_host.make_vdi(), await sim_host.make_vm()
    given = {"qos_algorithm_type": "throttle", "qos_algorithm_params": {"iops-total": "9"}}
    vbd = await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0", **given})
    assert "throttle" in await sim_host.call("VBD.get_qos_supported_algorithms", vbd)
    await sim_host.call("VM.start", vm, False, False)
    uuid = await sim_host.call("VM.get_uuid", vm)
    (disk,) = sim_host.backend._specs[uuid].disks
    assert (disk.qos_type, disk.qos_params) == ("throttle", {"iops-total": "9"})

    await sim_host.call("VBD.add_to_qos_algorithm_params", vbd, "bps-total", "5")
    await sim_host.call("VBD.remove_from_qos_algorithm_params", vbd, "iops-total")
    await sim_host.call("VBD.set_qos_algorithm_params", vbd, {})
    await sim_host.call("VBD.set_qos_algorithm_type", vbd, "ionice")
    assert told == [
        (uuid, "throttle", {"iops-total": "9", "bps-total": "5"}),
        (uuid, "throttle", {"bps-total": "5"}),
        (uuid, "throttle", {}),
        (uuid, "ionice", {}),
    ]
    found = await sim_host.fault("VBD.set_qos_algorithm_params", vbd, {"class": "loud"})
    assert found[0] == "INVALID_VALUE"
    assert await sim_host.call("VBD.get_qos_algorithm_params", vbd) == {}
