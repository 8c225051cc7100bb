"""What this machine has for guests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from xenith.core.units import MIB
from xenith.toolstack.backends import Capacity

#: The part of memory that guests may have; the rest is for QEMU itself, the cloud and the system.
_MEMORY_SHARE = 0.75
#: The part of the free disk; a full file system takes the cloud's databases down too.
_DISK_SHARE = 0.9


def capacity(
    directory: Path,
    *,
    memory_bytes: int | None = None,
    cpu_count: int | None = None,
    disk_bytes: int | None = None,
) -> Capacity:
    """Tell what guests may have in all: what is given, else a share of the machine."""
    if memory_bytes is None:
        total = int(_field("/proc/meminfo", "MemTotal").split()[0]) * 1024
        memory_bytes = int(total * _MEMORY_SHARE) // MIB * MIB
    if disk_bytes is None:
        ours = sum(_used_bytes(file) for file in directory.glob("sr/*/*.vhd"))
        disk_bytes = int((shutil.disk_usage(directory).free + ours) * _DISK_SHARE) // MIB * MIB
    return Capacity(
        memory_bytes=memory_bytes,
        cpu_count=cpu_count or os.cpu_count() or 1,
        disk_bytes=disk_bytes,
        cpu_model=_field("/proc/cpuinfo", "model name"),
    )


def _used_bytes(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:  # collected meanwhile
        return 0


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
