"""The difference of two disks as a differencing VHD: what XenAPI exports with ``base=``.

Two leaves of one tree differ at most in what the links above their common ancestor hold:

    ancestor ← a ← b ← leaf    sectors that a, b or leaf have,
             ↖ c ← base        and those that c or base have: in leaf they are the ancestor's

so only these links' tables and bitmaps are looked at, only their sectors are read, and what the
two have in common costs nothing, however large it is. Disks without a common ancestor are read
both and compared.
"""

from __future__ import annotations

import numpy as np

from xenith.core.errors import Invalid
from xenith.core.world import World
from xenith.vhd.bitmap import set_range, set_runs
from xenith.vhd.chain import Chain
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
from xenith.vhd.pipe import ZEROS, Sink

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
    above_leaf, above_base = common
    _check_sizes(leaf, base)
    plan = layout(leaf.size_bytes, sink, world=world, parent=parent_of(base))
    images = leaf.images[:above_leaf] + base.images[:above_base]
    flags = allocated_in(images, leaf.size_bytes, BLOCK_BYTES)

    def load(block: int, buffer: bytearray) -> list[Part]:
        if whole_blocks:
            return load_whole(leaf, block, buffer)
        view, bits = memoryview(buffer), bytearray(BITMAP_BYTES)
        _mark(bits, leaf, block, above_leaf)
        _mark(bits, base, block, above_base)
        if sink.in_order:
            # One write of a block is cheaper than one for each of its runs.
            view[BITMAP_BYTES:] = ZEROS
            view[:BITMAP_BYTES] = bits
        parts: list[Part] = [(0, bits)]
        for begin, end in set_runs(bits, 0, _PER_BLOCK):
            at = BITMAP_BYTES + begin * SECTOR_BYTES
            part = view[at : BITMAP_BYTES + end * SECTOR_BYTES]
            leaf.read_into(block * BLOCK_BYTES + begin * SECTOR_BYTES, part)
            parts.append((at, part))
        if len(parts) == 1 and not sink.in_order:
            return []
        return [(0, buffer)] if sink.in_order else parts

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
    other = bytearray(BLOCK_BYTES)
    theirs = np.frombuffer(other, np.uint64).reshape(_PER_BLOCK, -1)

    def load(block: int, buffer: bytearray) -> list[Part]:
        fill(disk, block * BLOCK_BYTES, memoryview(buffer)[BITMAP_BYTES:])
        fill(base, block * BLOCK_BYTES, memoryview(other))
        # Views of bytes are compared item by item, and arrays are not.
        ours = np.frombuffer(buffer, np.uint64, offset=BITMAP_BYTES).reshape(_PER_BLOCK, -1)
        unlike = (ours != theirs).any(axis=1)
        if not unlike.any():
            return []
        buffer[:BITMAP_BYTES] = np.packbits(unlike).tobytes()
        ours[~unlike] = 0
        return [(0, buffer)]

    either = allocated(disk, BLOCK_BYTES)
    below = allocated(base, BLOCK_BYTES)
    either[: len(below)] |= below
    blocks: list[int] = np.flatnonzero(either).tolist()
    if sink.in_order:
        spare = bytearray(BITMAP_BYTES + BLOCK_BYTES)
        blocks = [block for block in blocks if load(block, spare)]
    return write_blocks(plan, blocks, sink, load)


def _mark(bits: bytearray, chain: Chain, block: int, links: int) -> None:
    """Mark the sectors of a block that any of a chain's uppermost links has."""
    first = block * _PER_BLOCK
    count = min(_PER_BLOCK, chain.size_bytes // SECTOR_BYTES - first)
    if not links or count <= 0:
        return
    for run in chain.runs(first, count, links=links):
        if run.link is not None:
            set_range(bits, run.sector - first, run.sector - first + run.length)


def _check_sizes(disk: Disk, base: Disk) -> None:
    if base.size_bytes > disk.size_bytes:
        raise Invalid(
            f"The base has {base.size_bytes} bytes and the disk {disk.size_bytes}: no VHD stands"
            " on a larger one.",
            kind="VhdShrink",
        )
