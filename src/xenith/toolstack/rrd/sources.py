"""What can be measured, by name: what kind of number a data source is, its unit and its bounds.

A gauge is as it stands. A counter only grows, and what is recorded of it is how fast it does.
Source: xen-api, xcp-rrdd's plugins (rrdp-cpu, rrdp-iostat, rrdp-netdev, rrdp-squeezed).
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

#: Seconds after which a source that was not measured is unknown. Source: xcp-rrdd.
HEARTBEAT_S = 300.0


class Source(NamedTuple):
    """One data source."""

    name: str
    is_counter: bool
    units: str
    description: str
    maximum: float = math.inf


class _Row(NamedTuple):
    pattern: re.Pattern[str]
    is_counter: bool
    units: str
    description: str
    maximum: float = math.inf


def _row(
    pattern: str,
    units: str,
    description: str,
    *,
    is_counter: bool = False,
    maximum: float = math.inf,
) -> _Row:
    return _Row(re.compile(pattern), is_counter, units, description, maximum)


#: A group in the pattern is filled in to the description.
_TABLE = (
    _row(r"cpu(\d+)", "(fraction)", "Use of processor {0}", is_counter=True, maximum=1.0),
    _row("cpu_avg", "(fraction)", "Mean use of all processors", is_counter=True, maximum=1.0),
    _row("loadavg", "(fraction)", "Load of the host over a minute"),
    _row("memory", "B", "Memory that the VM has"),
    _row("memory_target", "B", "Memory that the VM is to have"),
    _row("memory_internal_free", "KiB", "Memory that the guest says is free"),
    _row("memory_total_kib", "KiB", "Memory of the host"),
    _row("memory_free_kib", "KiB", "Memory of the host that VMs may still have"),
    _row(r"vbd_(\w+)_iops_(read|write)", "requests/s", "Requests to {1} {0}", is_counter=True),
    _row(r"vbd_(\w+)_(read|write)", "B/s", "Bytes {1} of {0}", is_counter=True),
    _row(r"vbd_(\w+)_physical", "B", "Bytes that {0} takes where it lies, with its chain"),
    _row("disk_physical", "B", "Bytes that all disks take, with their chains, each file once"),
    _row(r"vif_(\d+)_(rx|tx)", "B/s", "Bytes {1} on card {0}", is_counter=True),
)


@lru_cache(maxsize=4096)
def source(name: str) -> Source:
    """Tell what a name stands for; one that is not known is a gauge without a unit."""
    for row in _TABLE:
        found = row.pattern.fullmatch(name)
        if found is not None:
            told = row.description.format(*found.groups())
            return Source(name, row.is_counter, row.units, told, row.maximum)
    return Source(name, False, "unknown", name.replace("_", " "))
