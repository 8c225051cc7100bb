"""The disks that a flavor gives beside the root disk: swap, and ephemeral ones.

Pure. Which there are follows from the flavor's two sizes alone, so that each is found by its name.
"""

from __future__ import annotations

from typing import NamedTuple

from xenith.core.limits import GIB, MIB
from xenith.driver.names import ephemeral_name, swap_name

#: Source: nova's table of devices; the guest sees xvdc, and xvde and those that follow.
SWAP_DEVICE, EPHEMERAL_DEVICE = "2", 4
#: A VHD ends at 2040 GiB; nova splits at 2000, or at 1024 what that divides.
PIECE_GIB_MAX, EVEN_PIECE_GIB = 2000, 1024


class FlavorDisk(NamedTuple):
    """One of a flavor's disks."""

    name: str
    device: str
    size_bytes: int
    description: str


def flavor_disks(instance_id: str, *, swap_mib: int, ephemeral_gib: int) -> list[FlavorDisk]:
    """List an instance's disks beside root disk and config drive.

    >>> found = flavor_disks("i", swap_mib=0, ephemeral_gib=4100)
    >>> [disk.size_bytes // GIB for disk in found]
    [2000, 2000, 100]
    >>> [disk.device for disk in flavor_disks("i", swap_mib=64, ephemeral_gib=2048)]
    ['2', '4', '5']
    """
    found = []
    if swap_mib:
        size_bytes = swap_mib * MIB
        found.append(FlavorDisk(swap_name(instance_id), SWAP_DEVICE, size_bytes, "swap"))
    piece_gib = PIECE_GIB_MAX if ephemeral_gib % EVEN_PIECE_GIB else EVEN_PIECE_GIB
    for number, start_gib in enumerate(range(0, ephemeral_gib, piece_gib)):
        size_gib = min(piece_gib, ephemeral_gib - start_gib)
        found.append(
            FlavorDisk(
                ephemeral_name(instance_id, number),
                str(EPHEMERAL_DEVICE + number),
                size_gib * GIB,
                f"ephemeral{number}",
            )
        )
    return found


def device_of(name: str) -> str:
    """Tell at which device a disk of such a name is.

    >>> device_of(ephemeral_name("i", 1)), device_of(swap_name("i"))
    ('5', '2')
    """
    kind, number = name.split("-")[1:3]
    return SWAP_DEVICE if kind == "swap" else str(EPHEMERAL_DEVICE + int(number))
