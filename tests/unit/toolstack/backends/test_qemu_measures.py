"""What is measured of QEMU and of this machine, from what they say."""

import os
import threading

from xenith.core.clock import SystemClock
from xenith.toolstack.backends import DiskSpec, DomainSpec
from xenith.toolstack.backends.qemu import measures

SPEC = DomainSpec("vm", "vm", 64 << 20, 1, (DiskSpec("b", "3"), DiskSpec("a", "0")))


def stats(device, *numbers):
    names = ("rd_bytes", "wr_bytes", "rd_operations", "wr_operations")
    path = f"/machine/peripheral/{device}/virtio-backend"
    return {"qdev": path, "stats": dict(zip(names, numbers, strict=True))}


def test_disks_are_told_by_the_names_that_their_guest_has_for_them():
    answers = [
        {"stats": {}},
        stats("disk11-device", 9, 9, 9, 9),
        stats("disk2-device", 1, 2, 3, 4),
        {**stats("x", 10, 20, 30, 40), "qdev": "disk1-device"},
    ]
    assert measures.disks(SPEC, answers) == {
        "vbd_xvda_read": 10.0,
        "vbd_xvda_write": 20.0,
        "vbd_xvda_iops_read": 30.0,
        "vbd_xvda_iops_write": 40.0,
        "vbd_xvdd_read": 1.0,
        "vbd_xvdd_write": 2.0,
        "vbd_xvdd_iops_read": 3.0,
        "vbd_xvdd_iops_write": 4.0,
    }
    assert measures.disks(SPEC, []) == {}


def test_idle_and_waiting_are_no_work_and_guests_count_once():
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, wait, irq, soft, steal, guest, guest_nice = range(1, 11)
    line = [user, nice, system, idle, wait, irq, soft, steal, guest, guest_nice]
    assert measures.busy_s(line) == (user + nice + system + irq + soft + steal) / ticks


def test_this_machine_has_as_many_processors_as_it_says_and_has_worked():
    found = measures.machine()
    assert len([name for name in found if name[3:].isdecimal()]) >= 1
    assert found["cpu_avg"] > 0
    assert found["loadavg"] >= 0


async def test_a_domains_processors_are_its_threads():
    clock = SystemClock()
    while clock_of(threading.get_native_id()) == 0:
        sum(range(100_000))

    async def ask(name):
        return {
            "query-cpus-fast": [{"cpu-index": 0, "thread-id": threading.get_native_id()}],
            "query-memory-size-summary": {"base-memory": 64 << 20, "plugged-memory": 1 << 20},
            "query-blockstats": [stats("disk1-device", 1, 0, 1, 0)],
        }[name]

    begun = clock.monotonic()
    found = await measures.domain(ask, SPEC, pid=os.getpid())
    assert 0 < found["cpu0"] < begun
    assert (found["memory"], found["memory_target"]) == (65 << 20, 64 << 20)
    assert found["vbd_xvda_read"] == 1


def clock_of(thread):
    return measures._thread_s(os.getpid(), thread)
