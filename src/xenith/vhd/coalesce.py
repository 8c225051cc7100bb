"""A child's sectors merged into its parent, so that a chain gets shorter while it is read.

Two shapes, one merge. A hidden child in the middle is merged, what stood on it is made to stand
on its parent, and it is removed. A leaf is merged and its parent takes its name.

    base ← middle ← leaf      →  base' ← leaf          base ← leaf  →  leaf (the base's file)

Why no sector is lost: until its last step the child holds all that it held, and who reads through
it sees its sectors before its parent's, however many are there already. The merge is on the disk
before anything stops pointing at the child; that step is one rename, or one footer each
(``alter``). A merge done twice writes the same bytes, so a crash is carried on from the note:
from the block that it names for a hidden child, which is never written to, and from the start for
a leaf, which may have been since.

A leaf may be written to, by the same process, between steps: ``Image.touched`` names what has to
be taken again, and ``finish`` takes the last of it without letting a write in.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from xenith.core.errors import Conflict, Invalid
from xenith.vhd import journal
from xenith.vhd.alter import reparent, resize, set_hidden
from xenith.vhd.chain import open_parent
from xenith.vhd.create import NEW_SUFFIX
from xenith.vhd.files import Files
from xenith.vhd.footer import SECTOR_BYTES
from xenith.vhd.image import Image, open_image
from xenith.vhd.snapshot import PREFIX as SNAPSHOT_PREFIX
from xenith.vhd.snapshot import recover_snapshot
from xenith.vhd.tree import SUFFIX, children, scan

PREFIX = "coalesce_"
#: Blocks between two notes of how far a merge is: 128 MiB that a crash has done again.
STEP_BLOCKS = 64
#: Bytes moved at a time.
COPY_BYTES = 2 * 1024 * 1024


class CoalesceNote(msgspec.Struct, frozen=True, kw_only=True):
    """How far a coalesce is; ``next_block`` is the first that may not be merged."""

    child: str
    parent: str
    child_uuid: str
    parent_uuid: str
    is_leaf: bool
    next_block: int = 0


class Coalesce:
    """A coalesce in progress: ``step`` until it says so, then ``finish``."""

    def __init__(self, files: Files, note: CoalesceNote, child: Image, parent: Image) -> None:
        self._files = files
        self.note = note
        self.child = child
        self.parent = parent
        self._blocks = [block for block in child.blocks() if block >= note.next_block]
        self._buffer = memoryview(bytearray(min(COPY_BYTES, child.size_bytes)))
        if note.is_leaf:
            child.touched = set()

    def step(self, blocks: int = STEP_BLOCKS) -> bool:
        """Merge some blocks; tell whether any are left. The child may be written to after it."""
        part, self._blocks = self._blocks[:blocks], self._blocks[blocks:]
        self._merge(part)
        if self._blocks and not self.note.is_leaf:
            self.parent.flush()
            self.note = msgspec.structs.replace(self.note, next_block=self._blocks[0])
            journal.save(self._files, note_name(self.note.child), self.note)
        if self._blocks or not self.child.touched:
            return bool(self._blocks)
        self._blocks, self.child.touched = sorted(self.child.touched), set()
        return True

    def finish(self, live: Mapping[str, Image] | None = None) -> None:
        """Merge what is left and take the child out of the chain; both are closed then.

        ``live`` are images that this process has open for writing, by name, among those that
        stand on the child; all chains over it are to be opened again.

        Raises:
            Conflict: another process writes to what stands on the child. Ask it to close, and
                call this again.
        """
        if self.note.is_leaf:
            self.child.flush()
        self._merge(sorted({*self._blocks, *(self.child.touched or ())}))
        self._blocks, self.child.touched = [], None
        self.parent.flush()
        if self.note.is_leaf:
            self._finish_leaf()
        else:
            self._finish_middle(live or {})
        journal.drop(self._files, note_name(self.note.child))
        self.close()

    def cancel(self) -> None:
        """Give it up. What is merged stays in the parent, where the child hides it."""
        journal.drop(self._files, note_name(self.note.child))
        self.child.touched = None
        self.close()

    def close(self) -> None:
        """Close both files; the note stays, and ``recover`` carries it on."""
        self.child.close()
        self.parent.close()

    def _finish_leaf(self) -> None:
        # Shown before it takes the name: after the rename it is the leaf, and a hidden leaf is
        # garbage to a storage manager.
        set_hidden(self.parent, False)
        self._files.rename(self.note.parent, self.note.child)
        self._files.sync()

    def _finish_middle(self, live: Mapping[str, Image]) -> None:
        # After a crash in the middle of this, those that are still listed are the rest.
        for name in children(scan(self._files), self.note.child):
            _reparent(self._files, name, self.parent, live)
        self._files.unlink(self.note.child)

    def _merge(self, blocks: list[int]) -> None:
        per_block = self.child.block_bytes // SECTOR_BYTES
        for block in blocks:
            first = block * per_block
            count = min(per_block, self.child.sectors - first)
            for extent in self.child.extents(first, count):
                if extent.place is not None:
                    self._copy(extent.sector, extent.length, extent.place)

    def _copy(self, sector: int, count: int, place: int) -> None:
        offset, left = sector * SECTOR_BYTES, count * SECTOR_BYTES
        while left:
            part = self._buffer[: min(left, len(self._buffer))]
            self.child.file.read_into(place, part)
            self.parent.write(offset, part)
            offset, place, left = offset + len(part), place + len(part), left - len(part)


def note_name(child: str) -> str:
    """Name the note about a child, as Xen's storage manager does.

    >>> note_name("a.vhd")
    'coalesce_a'
    """
    return PREFIX + child.removesuffix(SUFFIX)


def begin_coalesce(files: Files, child: str, *, leaf: Image | None = None) -> Coalesce:
    """Begin to merge a VHD into its parent; ``leaf`` is the child where it is open for writing.

    Raises:
        Conflict: its parent has other children or is larger than it may become, or the child is
            hidden and nothing stands on it, or is shown and something does.
        Invalid: the chain is not sound.
    """
    opened = leaf or open_image(files, child)
    parent: Image | None = None
    try:
        if not opened.has_parent:
            raise Conflict(f"{child} stands on no other VHD.", kind="VhdNoParent")
        found = open_parent(files, opened)
        name = found.name
        found.close()
        _check_place(files, opened, name)
        parent = open_image(files, name, writable=True)
        note = CoalesceNote(
            child=child,
            parent=parent.name,
            child_uuid=str(opened.footer.uuid),
            parent_uuid=str(parent.footer.uuid),
            is_leaf=not opened.footer.hidden,
        )
        journal.save(files, note_name(child), note)
        _grow(files, parent, opened.size_bytes)
        return Coalesce(files, note, opened, parent)
    except BaseException:
        if leaf is None:
            opened.close()
        if parent is not None:
            parent.close()
        raise


def coalesce(files: Files, child: str) -> None:
    """Merge a VHD that no one writes to into its parent, from start to end."""
    _run(begin_coalesce(files, child))


def recover(files: Files) -> list[str]:
    """Bring to its end what a crash left in the middle; list the notes that were found.

    To be run when a repository is opened, before anything else is done in it. Safe to repeat.
    """
    found = [name for name in files.names() if not name.endswith(NEW_SUFFIX)]
    done = [name for name in found if name.startswith((SNAPSHOT_PREFIX, PREFIX))]
    # A snapshot is over in a moment, and a coalesce may need the chain that it leaves.
    for name in (one for one in done if one.startswith(SNAPSHOT_PREFIX)):
        recover_snapshot(files, name)
    for name in (one for one in done if one.startswith(PREFIX)):
        _recover_coalesce(files, name)
    for name in files.names():
        if name.endswith(NEW_SUFFIX):
            files.unlink(name)
    files.sync()
    return done


def _recover_coalesce(files: Files, name: str) -> None:
    note = journal.load(files, name, CoalesceNote)
    names = files.names()
    if note.child not in names or note.parent not in names:
        # The last step was taken: the child is gone, or its parent has its name.
        journal.drop(files, name)
        return
    child = open_image(files, note.child)
    parent = open_image(files, note.parent, writable=True)
    found = (str(child.footer.uuid), str(parent.footer.uuid))
    stands_on = child.header.parent_uuid if child.header else None
    if found != (note.child_uuid, note.parent_uuid) or stands_on != parent.footer.uuid:
        child.close()
        parent.close()
        raise Invalid(f"The note {name} is about other files than those that have its names.")
    _grow(files, parent, child.size_bytes)
    try:
        _run(Coalesce(files, note, child, parent))
    except Conflict as error:
        if error.kind != "VhdInUse":
            raise
        # A domain that lived on writes to what stands on it; the child hides what was merged.
        journal.drop(files, name)


def _run(work: Coalesce) -> None:
    try:
        while work.step():
            pass
        work.finish()
    except BaseException:
        work.close()
        raise


def _reparent(files: Files, name: str, parent: Image, live: Mapping[str, Image]) -> None:
    if name in live:
        reparent(live[name], parent, files=files)
        return
    image = open_image(files, name, writable=True)
    try:
        reparent(image, parent, files=files)
    finally:
        image.close()


def _check_place(files: Files, child: Image, parent: str) -> None:
    tree = scan(files)
    siblings = [name for name in children(tree, parent) if name != child.name]
    if siblings:
        raise Conflict(
            f"{', '.join(siblings)} stand on {parent} beside {child.name}.", kind="VhdHasSiblings"
        )
    standing = children(tree, child.name)
    if bool(standing) != child.footer.hidden:
        raise Conflict(
            f"{child.name} is {'hidden' if child.footer.hidden else 'shown'}, and"
            f" {', '.join(standing) or 'nothing'} stands on it.",
            kind="VhdHasChildren" if standing else "VhdHidden",
        )


def _grow(files: Files, parent: Image, size_bytes: int) -> None:
    """Make a parent as large as its child; what it gains must be zero in what it stands on."""
    if parent.size_bytes >= size_bytes:
        return
    if parent.has_parent:
        below = open_parent(files, parent)
        below.close()
        if below.size_bytes > parent.size_bytes:
            raise Conflict(f"{below.name} is larger than {parent.name}, which stands on it.")
    resize(parent, size_bytes)
