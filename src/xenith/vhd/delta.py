"""The difference of two disks as a differencing VHD: what XenAPI exports with ``base=``.

Two leaves of one tree differ at most in what the links above their common ancestor hold:

    ancestor ← a ← b ← leaf    sectors that a, b or leaf have,
             ↖ c ← base        and those that c or base have: in leaf they are the ancestor's

so only these links' tables and bitmaps are looked at, only their sectors are read, and what the
two have in common costs nothing, however large it is. Disks without a common ancestor are read
both and compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from xenith.core.errors import Invalid
from xenith.core.world import World
from xenith.vhd.bitmap import set_range, set_runs
from xenith.vhd.chain import Chain, Run
from xenith.vhd.disk import Disk, allocated, allocated_in, fill
from xenith.vhd.encoder import (
    BITMAP_BYTES,
    Parent,
    Part,
    layout,
    load_whole,
    write_blocks,
)
from xenith.vhd.footer import SECTOR_BYTES
from xenith.vhd.header import BLOCK_BYTES
from xenith.vhd.pipe import CHUNK_BYTES, ZEROS, Sink, new_buffer

_PER_BLOCK = BLOCK_BYTES // SECTOR_BYTES


def parent_of(base: Chain) -> Parent:
    """Name a chain's leaf as the parent of a delta."""
    return Parent(uuid=base.leaf.footer.uuid, name=base.leaf.name)


def find_common(leaf: Chain, base: Chain) -> tuple[int, int] | None:
    """Count the links of each that lie above their common ancestor; None where they have none.

    A link is the same by its footer's UUID and its name. Source: xen-api's ``export_raw_vdi.ml``.
    """
    known = {(image.footer.uuid, image.name): at for at, image in enumerate(base.images)}
    for at, image in enumerate(leaf.images):
        if (image.footer.uuid, image.name) in known:
            return at, known[image.footer.uuid, image.name]
    return None


def encode_change(leaf: Chain, base: Chain, sink: Sink, *, world: World) -> int:
    """Write what makes of one disk another: by their chains if they have a common ancestor.

    Raises:
        Invalid: the base is the larger.
    """
    if find_common(leaf, base) is not None:
        return encode_delta(leaf, base, sink, world=world)
    return encode_difference(leaf, base, sink, parent=parent_of(base), world=world)


def encode_delta(
    leaf: Chain, base: Chain, sink: Sink, *, world: World, whole_blocks: bool = False
) -> int:
    """Write what makes of the disk ``base`` the disk ``leaf``; give the stream's length.

    ``base`` may be older or newer. ``whole_blocks`` sends blocks as xapi does, merged and with
    full bitmaps, for importers that read no bitmap.

    Raises:
        Invalid: the two have no common ancestor, or the base is the larger.
    """
    common = find_common(leaf, base)
    if common is None:
        raise Invalid(
            f"{leaf.leaf.name} and {base.leaf.name} have no common ancestor: compare them.",
            kind="VhdUnrelated",
        )
    _check_sizes(leaf, base)
    plan = layout(leaf.size_bytes, sink, world=world, parent=parent_of(base))
    images = leaf.images[: common[0]] + base.images[: common[1]]
    flags = allocated_in(images, leaf.size_bytes, BLOCK_BYTES)

    # In a file runs are written where they belong. For a pipe one write of a block is cheaper
    # than two for each of its runs.
    buffer = new_buffer(BITMAP_BYTES + BLOCK_BYTES)

    def load(block: int) -> Iterator[Part]:
        if whole_blocks:
            yield from load_whole(leaf, block, buffer[:CHUNK_BYTES])
            return
        bits = bytearray(BITMAP_BYTES)
        runs = list(_changed(leaf, base, block, common))
        first = block * _PER_BLOCK
        for run in runs:
            set_range(bits, run.sector - first, run.sector - first + run.length)
        if sink.in_order:
            buffer[:BITMAP_BYTES] = bits
            buffer[BITMAP_BYTES:] = ZEROS
        elif runs:
            yield 0, bits
        for run in runs:
            at = BITMAP_BYTES + (run.sector - first) * SECTOR_BYTES
            part = buffer[at : at + run.length * SECTOR_BYTES]
            if run.link is not None:
                leaf.read_run(run, part)
                if not sink.in_order:
                    yield at, part
        if sink.in_order:
            yield 0, buffer

    blocks = np.flatnonzero(flags).tolist()
    return write_blocks(plan, blocks, sink, load)


def encode_difference(disk: Disk, base: Disk, sink: Sink, *, parent: Parent, world: World) -> int:
    """Write the sectors in which two disks differ, which reads both; give the stream's length.

    Into a pipe both are read twice, as its table comes before the blocks.

    Raises:
        Invalid: the base is the larger.
    """
    _check_sizes(disk, base)
    plan = layout(disk.size_bytes, sink, world=world, parent=parent)
    data, other = (new_buffer(BLOCK_BYTES) for _ in range(2))
    # Views of bytes are compared item by item, and arrays are not.
    ours, theirs = (
        np.frombuffer(view, np.uint64).reshape(_PER_BLOCK, -1) for view in (data, other)
    )

    def load(block: int) -> list[Part]:
        fill(disk, block * BLOCK_BYTES, data)
        fill(base, block * BLOCK_BYTES, other)
        unlike = (ours != theirs).any(axis=1)
        if not unlike.any():
            return []
        ours[~unlike] = 0
        return [(0, np.packbits(unlike).tobytes()), (BITMAP_BYTES, data)]

    either = allocated(disk, BLOCK_BYTES)
    below = allocated(base, BLOCK_BYTES)
    either[: len(below)] |= below
    blocks: list[int] = np.flatnonzero(either).tolist()
    if sink.in_order:
        blocks = [block for block in blocks if load(block)]
    return write_blocks(plan, blocks, sink, load)


def _changed(leaf: Chain, base: Chain, block: int, above: tuple[int, int]) -> Iterator[Run]:
    """Give the runs of a block that the links above the common ancestor have, as leaf reads them.

    A run that only the base has written to is the ancestor's in the leaf, or nobody's.
    """
    above_leaf, above_base = above
    ours = _held(leaf, block, above_leaf)
    theirs = _held(base, block, above_base)
    if not theirs:
        yield from ours
        return
    bits = bytearray(BITMAP_BYTES)
    first = block * _PER_BLOCK
    for run in itertools.chain(ours, theirs):
        set_range(bits, run.sector - first, run.sector - first + run.length)
    end = leaf.size_bytes // SECTOR_BYTES - first
    for begin, stop in set_runs(bits, 0, min(_PER_BLOCK, end)):
        yield from leaf.runs(first + begin, stop - begin)


def _held(chain: Chain, block: int, links: int) -> list[Run]:
    """List the runs of a block that any of a chain's uppermost links has."""
    first = block * _PER_BLOCK
    count = min(_PER_BLOCK, chain.size_bytes // SECTOR_BYTES - first)
    if not links or count <= 0:
        return []
    return [run for run in chain.runs(first, count, links=links) if run.link is not None]


def _check_sizes(disk: Disk, base: Disk) -> None:
    if base.size_bytes > disk.size_bytes:
        raise Invalid(
            f"The base has {base.size_bytes} bytes and the disk {disk.size_bytes}: no VHD stands"
            " on a larger one.",
            kind="VhdShrink",
        )
