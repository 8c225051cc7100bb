"""What this machine and its QEMUs really use: read from ``/proc`` and asked over QMP.

Of a processor, a disk or a card it is a counter from its start, as it stands. Cards are not
measured: behind each is an end of a hub that has no counters, and no frame leaves the guest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from xenith.toolstack.backends import DomainSpec, device_name
from xenith.toolstack.backends.qemu.command import disks_in_order, node_name

#: Asks QEMU a question.
Ask = Callable[[str], Awaitable[Any]]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Fields after the name in ``/proc/<pid>/stat``, which may hold anything: user and system time.
_USER, _SYSTEM = 11, 12
#: Fields of a processor's line in ``/proc/stat`` that are not work: idle, iowait; and guests',
#: which are counted as user time too. Source: proc(5).
_IDLE = (3, 4, 8, 9)
_CPU_LINE = re.compile(r"cpu(\d+) (.*)")


async def domain(ask: Ask, spec: DomainSpec, *, pid: int) -> dict[str, float]:
    """Measure a domain."""
    figures: dict[str, float] = {}
    for cpu in await ask("query-cpus-fast"):
        figures[f"cpu{cpu['cpu-index']}"] = _thread_s(pid, int(cpu["thread-id"]))
    memory = await ask("query-memory-size-summary")
    figures["memory"] = float(memory["base-memory"] + memory.get("plugged-memory", 0))
    figures["memory_target"] = float(spec.memory_bytes)
    return figures | disks(spec, await ask("query-blockstats"))


def disks(spec: DomainSpec, answers: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Give what the disks of a domain have read and written, from QEMU's ``query-blockstats``."""
    by_device = {str(answer.get("qdev", "")): answer["stats"] for answer in answers}
    figures: dict[str, float] = {}
    for at, disk in enumerate(disks_in_order(spec), start=1):
        device = f"{node_name(at)}-device"
        stats = next((row for path, row in by_device.items() if device in path.split("/")), None)
        if stats is None or not disk.device.isdecimal():
            continue
        name = f"vbd_{device_name(int(disk.device))}"
        figures[f"{name}_read"] = float(stats["rd_bytes"])
        figures[f"{name}_write"] = float(stats["wr_bytes"])
        figures[f"{name}_iops_read"] = float(stats["rd_operations"])
        figures[f"{name}_iops_write"] = float(stats["wr_operations"])
    return figures


def machine() -> dict[str, float]:
    """Measure this machine: its load, and the seconds that each processor has worked."""
    figures: dict[str, float] = {}
    for line in Path("/proc/stat").read_text().splitlines():
        found = _CPU_LINE.fullmatch(line)
        if found is not None:
            figures[f"cpu{found[1]}"] = busy_s([int(word) for word in found[2].split()])
    mean = sum(figures.values()) / max(1, len(figures))
    load = float(Path("/proc/loadavg").read_text().split()[0])
    return {**figures, "cpu_avg": mean, "loadavg": load}


def busy_s(ticks: list[int]) -> float:
    """Tell the seconds that a processor has worked, from its numbers in ``/proc/stat``."""
    return sum(count for at, count in enumerate(ticks) if at not in _IDLE) / _TICKS_PER_S


def _thread_s(pid: int, thread: int) -> float:
    words = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return (int(words[_USER]) + int(words[_SYSTEM])) / _TICKS_PER_S
