"""Snapshots: a leaf's file becomes a hidden base, and new leaves stand on it.

    before   leaf                 after   base (hidden, the leaf's old file)
                                            ├─ leaf   (empty, the name that is in use)
                                            └─ other  (empty, the snapshot), where one is wanted

The leaf's name leads to a whole disk at every moment: the base is a second name of the file until
the new leaf is renamed over the first. Source: sm's ``FileSR.py``, which does the same.
"""

from __future__ import annotations

import msgspec

from xenith.core.errors import Conflict, Exhausted, NotFound
from xenith.core.world import World
from xenith.vhd import journal
from xenith.vhd.alter import set_hidden
from xenith.vhd.chain import DEPTH_MAX, open_chain
from xenith.vhd.create import NEW_SUFFIX, write_differencing
from xenith.vhd.files import Files
from xenith.vhd.image import check_writable, open_image
from xenith.vhd.tree import SUFFIX, children, scan

PREFIX = "snapshot_"


class SnapshotNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot in progress makes of what."""

    leaf: str
    base: str
    other: str | None = None


def snapshot(
    files: Files,
    leaf: str,
    *,
    base: str,
    other: str | None = None,
    world: World,
    depth_max: int = DEPTH_MAX,
) -> None:
    """Take a snapshot of a leaf that no one has open for writing.

    Raises:
        Conflict: it is hidden, being written to, or a name is taken.
        Exhausted: its chain is as deep as chains may be.
    """
    names = files.names()
    for name in (base, other):
        if name is not None and name in names:
            raise Conflict(f"{name} exists already.", kind="VhdExists")
    chain = open_chain(files, leaf, depth_max=depth_max)
    depth = len(chain.images)
    chain.close()
    if depth >= depth_max:
        raise Exhausted(
            f"The chain of {leaf} has {depth} files, and no chain has more: coalesce it first.",
            kind="VhdChainTooLong",
        )
    image = open_image(files, leaf, writable=True)
    try:
        check_writable(image)
        note = SnapshotNote(leaf=leaf, base=base, other=other)
        journal.save(files, PREFIX + leaf.removesuffix(SUFFIX), note)
        for name in (leaf, other):
            if name is not None:
                write_differencing(files, name, base=image, named_parent=base, world=world)
        # Their names must be there before the base has a second one, from where on a crash is
        # carried on and not taken back.
        files.sync()
        files.link(leaf, base)
        files.sync()
        files.rename(leaf + NEW_SUFFIX, leaf)
        files.sync()
        set_hidden(image, True)
        if other is not None:
            files.rename(other + NEW_SUFFIX, other)
        journal.drop(files, PREFIX + leaf.removesuffix(SUFFIX))
    finally:
        image.close()


def recover_snapshot(files: Files, name: str) -> None:
    """Carry on or take back the snapshot that a note is about."""
    note = journal.load(files, name, SnapshotNote)
    names = files.names()
    if note.base in names and files.is_same(note.base, note.leaf):
        files.unlink(note.base)
    elif note.base in names:
        image = open_image(files, note.base, writable=True)
        try:
            set_hidden(image, True)
        finally:
            image.close()
        if note.other is not None and note.other + NEW_SUFFIX in names:
            files.rename(note.other + NEW_SUFFIX, note.other)
    journal.drop(files, name)


def delete(files: Files, name: str) -> None:
    """Remove a VHD that no other stands on.

    Raises:
        Conflict: one does, or may.
        NotFound: there is no such file.
    """
    tree = scan(files)
    if name not in tree:
        raise NotFound(f"{name} is not in the repository.", kind="VhdNotFound")
    # What cannot be read is nobody's parent, and may be removed by its name.
    if tree[name].footer is not None and (standing := children(tree, name)):
        raise Conflict(f"{', '.join(standing)} stand on {name}.", kind="VhdHasChildren")
    files.unlink(name)
    files.sync()
