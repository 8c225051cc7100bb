"""Disks to measure with: each one as VHDs for us and as qcow2 for qemu-img, the same bytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from xenith.core.units import MIB
from xenith.core.world import World
from xenith.dev.bench import vhd_work as work
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.header import BLOCK_BYTES

#: Bytes of one change: what file systems write at a time at the most.
CHANGE_BYTES = 64 * 1024
#: A tenth of the disk is rewritten in each link of a chain.
_LINK_SHARE = 10
_PATTERN = bytes(range(1, 256))


def make_raw(path: Path, size_mib: int) -> int:
    """Make a disk of which six blocks of ten have data, two zeros, and two are holes."""
    data = _bytes(BLOCK_BYTES, 0)
    total = 0
    with path.open("wb", buffering=0) as file:
        file.truncate(size_mib * MIB)
        for block in range(size_mib * MIB // BLOCK_BYTES):
            if block % 10 < 8:
                file.seek(block * BLOCK_BYTES)
                file.write(data if block % 10 < 6 else bytes(BLOCK_BYTES))
                total += BLOCK_BYTES * (block % 10 < 6)
    return total


def make_chain(directory: Path, size_mib: int, *, links: int) -> tuple[int, str, str]:
    """Make a chain; give the bytes of its data, and its leaf's names for us and for qemu-img."""
    raw = directory / "disk.raw"
    total = make_raw(raw, size_mib)
    work.raw_to_vhd(raw, directory / "0.vhd")
    _qcow2(directory, raw, 0)
    for link in range(1, links):
        # Each link's changes lie elsewhere, in blocks that had data.
        starts = [
            block * BLOCK_BYTES + (4 * link + step) * CHANGE_BYTES
            for block in range(size_mib * MIB // BLOCK_BYTES)
            if block % 10 < 6
            for step in range(BLOCK_BYTES // CHANGE_BYTES // _LINK_SHARE)
        ]
        _change(raw, starts, link)
        _vhd(directory, link, size_mib, starts)
        _qcow2(directory, raw, link)
    raw.unlink()
    return total, f"{links - 1}.vhd", f"{links - 1}.qcow2"


def make_pair(
    directory: Path, size_mib: int, per_mille: int
) -> tuple[int, str, str, tuple[str, str]]:
    """Make a full disk and one that differs; give the bytes that do, and both pairs of names.

    Blocks of the base hold a change's length of data each: nobody has a reason to read it.
    """
    raw = directory / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(size_mib * MIB)
    full = range(0, size_mib * MIB, BLOCK_BYTES)
    _change(raw, full, 0)
    _vhd(directory, 0, size_mib, full)
    _qcow2(directory, raw, 0)
    count = size_mib * MIB * per_mille // 1000 // CHANGE_BYTES
    # A prime step goes everywhere, as a guest's writes do.
    slots = size_mib * MIB // CHANGE_BYTES
    starts = sorted({number * 7919 % slots * CHANGE_BYTES for number in range(count)})
    _change(raw, starts, 1)
    _vhd(directory, 1, size_mib, starts)
    _qcow2(directory, raw, 1)
    raw.unlink()
    return len(starts) * CHANGE_BYTES, "1.vhd", "0.vhd", ("1.qcow2", "0.qcow2")


def _vhd(directory: Path, link: int, size_mib: int, starts: Iterable[int]) -> None:
    files, world = Directory(directory), World()
    name = f"{link}.vhd"
    if link:
        create_differencing(files, name, parent=f"{link - 1}.vhd", world=world)
    else:
        create_dynamic(files, name, size_bytes=size_mib * MIB, world=world)
    chain = open_chain(files, name, writable=True)
    for start in starts:
        chain.write(start, _bytes(CHANGE_BYTES, link))
    chain.flush()
    chain.close()
    files.close()


def _change(raw: Path, starts: Iterable[int], link: int) -> None:
    with raw.open("r+b", buffering=0) as file:
        for start in starts:
            file.seek(start)
            file.write(_bytes(CHANGE_BYTES, link))


def _qcow2(directory: Path, raw: Path, link: int) -> None:
    """Make what the raw file differs in from the link before."""
    command: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    if link:
        command += ["-B", directory / f"{link - 1}.qcow2", "-F", "qcow2"]
    command += [raw, directory / f"{link}.qcow2"]
    subprocess.run(command, check=True)  # noqa: S603 - a list of our own, no shell


def _bytes(length: int, link: int) -> bytes:
    """Give bytes of which none is zero, others for each link."""
    pattern = _PATTERN[link:] + _PATTERN[:link]
    return (pattern * (length // len(pattern) + 1))[:length]
