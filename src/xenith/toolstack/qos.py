"""How much input and output a disk of a VM may have: what clients may say, and what it means.

``ionice`` is a weight among the disks of a host, ``throttle`` an absolute limit of one disk.
Source: XenAPI VBD.qos_algorithm_type; xapi knows ``ionice`` (sched, class) alone and ignores what
it does not know, ``throttle`` is ours with QEMU's names for what it limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xenith.xapi.faults import XapiFault

SUPPORTED = ("ionice", "throttle")

#: Source: xapi, ionice ``sched``; the numbers are ioprio_set(2)'s classes.
_SCHEDULERS = {"rt": 1, "real-time": 1, "best-effort": 2, "idle": 3}
#: Source: xapi, ionice ``class``; 0 is served first, 7 last.
_LEVELS = {"highest": 0, "high": 2, "normal": 4, "low": 6, "lowest": 7}
#: Source: QEMU, qapi/block-core.json, ThrottleLimits; bps are bytes, iops operations a second,
#: ``-max`` what a burst may have.
LIMITS = tuple(
    f"{unit}-{way}{burst}"
    for unit in ("bps", "iops")
    for way in ("total", "read", "write")
    for burst in ("", "-max")
)
#: Source: QEMU, THROTTLE_VALUE_MAX.
LIMIT_MAX = 10**15


class Limits(NamedTuple):
    """What is to be enforced: ioprio_set's class and level, and QEMU's limits by name."""

    scheduler: int = 0
    level: int = 0
    throttle: Mapping[str, int] = {}


def limits_of(kind: str, params: Mapping[str, str]) -> Limits:
    """Read a VBD's algorithm and parameters.

    Raises:
        XapiFault: INVALID_VALUE.
    """
    if kind == "ionice":
        return Limits(scheduler=_scheduler(params), level=_level(params))
    if kind == "throttle":
        return Limits(throttle=_throttle(params))
    # Source: xapi, an algorithm that is not known limits nothing.
    return Limits()


def _scheduler(params: Mapping[str, str]) -> int:
    name = params.get("sched", "best-effort")
    if name not in _SCHEDULERS:
        raise XapiFault("INVALID_VALUE", "qos_algorithm_params:sched", name)
    return _SCHEDULERS[name]


def _level(params: Mapping[str, str]) -> int:
    name = params.get("class", "normal")
    if name in _LEVELS:
        return _LEVELS[name]
    if name not in set("01234567"):
        raise XapiFault("INVALID_VALUE", "qos_algorithm_params:class", name)
    return int(name)


def _throttle(params: Mapping[str, str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for name, text in params.items():
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX))
        if name not in LIMITS or not is_number or int(text) > LIMIT_MAX:
            raise XapiFault("INVALID_VALUE", f"qos_algorithm_params:{name}", text)
        limits[name] = int(text)
    for name in limits:
        if name.endswith("-max") and not limits.get(name.removesuffix("-max")):
            raise XapiFault("INVALID_VALUE", f"qos_algorithm_params:{name}", "a burst needs a rate")
    for unit in ("bps", "iops"):
        ways = {way for way in ("read", "write") if limits.get(f"{unit}-{way}")}
        if limits.get(f"{unit}-total") and ways:
            # Source: QEMU, throttle_is_valid.
            raise XapiFault(
                "INVALID_VALUE", f"qos_algorithm_params:{unit}-total", "and read, write"
            )
    return limits
