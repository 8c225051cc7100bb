"""What deleted disks leave behind is removed, and chains get shorter, behind everyone's back.

    hidden, nothing stands on it              removed
    hidden, the only child of its parent      merged into that; its children stand there then
    a leaf, the only child of a hidden one    merged into that, which takes its name

It goes in steps of some blocks, each in a turn that callers have first, and stops after so many
bytes; the next activation goes on. A chain that someone reads is left alone.

A hidden one in the middle is merged while a domain writes to what stands on it: the domain reads
through the child, which hides every sector that its parent gets. Only at the end must its writer be
held still, with its files closed, while what stands on the child is turned to the parent: ``end``.
Source: sm's ``cleanup.py`` for the three rules.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from xenith.core.errors import Conflict, Exhausted, Invalid, NotFound
from xenith.toolstack.storage.inventory import Inventory, Vdi, file_of, take
from xenith.toolstack.storage.pins import Pins
from xenith.toolstack.storage.space import Space
from xenith.toolstack.storage.turns import Turns
from xenith.vhd.coalesce import Coalesce, begin_coalesce
from xenith.vhd.files import Files
from xenith.vhd.snapshot import delete
from xenith.vhd.tree import SUFFIX

#: Bytes that one activation looks at: some seconds of a disk's time.
ACTIVATION_BYTES = 1024 * 1024 * 1024
#: Blocks merged in one turn: 32 MiB, a tenth of a second that a caller may have to wait.
TURN_BLOCKS = 16
#: What a turn that merges nothing counts for, so that any number of them has an end too.
TURN_BYTES = 1024 * 1024


@dataclass(kw_only=True)
class Collected:
    """What one activation did, and by uuid why it could not do what it left.

    ``writers`` are disks that a domain writes to and that a merge needs held still, to ``end``;
    ``is_done`` tells that nothing else is left to do.
    """

    deleted: list[str] = field(default_factory=list)
    coalesced: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    writers: list[str] = field(default_factory=list)
    is_done: bool = False


class Collector:
    """The garbage collection of one repository. Its caller holds no turn."""

    def __init__(
        self, files: Files, *, turns: Turns, pins: Pins, space: Space, depth_max: int
    ) -> None:
        self._files = files
        self._turns = turns
        self._pins = pins
        self._space = space
        self._depth_max = depth_max
        self._work: Coalesce | None = None
        self._activation = threading.Lock()
        self._is_closed = False

    def collect(self, *, bytes_max: int = ACTIVATION_BYTES) -> Collected:
        """Do a bounded part of what there is to do. Blocks for as long as that takes.

        Of two activations at once the second does nothing.
        """
        done = Collected()
        if not self._activation.acquire(blocking=False):
            return done
        try:
            spent = 0
            while spent < bytes_max and not done.is_done and not done.writers:
                with self._turns.background():
                    spent += self._turn(done)
        finally:
            self._activation.release()
        return done

    def end(self, held: Collection[str]) -> Collected:
        """End a merge that ``collect`` brought so far, whose writers are held still. Blocks.

        With others in the way by now it is given up.
        """
        done = Collected()
        with self._turns.call():
            if self._is_closed or self._work is None:
                return done
            self._merge(self._work, done, held=held)
            if done.writers:
                uuid, done.writers = self._work.note.child.removesuffix(SUFFIX), []
                done.left[uuid] = "another came to write to what stands on it"
                self._drop()
        return done

    def give_way(self, *names: str) -> None:
        """Give up a merge of one of these files. Its caller holds the turn.

        What is merged stays in the parent, where the child hides it.
        """
        if self._work is not None and self._work.note.child in names:
            self._drop()

    def close(self) -> None:
        """Leave a merge to whoever opens the repository next. Its caller holds the turn."""
        self._is_closed = True
        if self._work is not None:
            self._work.close()
        self._work = None

    def _turn(self, done: Collected) -> int:
        if self._is_closed:
            done.is_done = True
            return TURN_BYTES
        if self._work is not None:
            return self._merge(self._work, done)
        known = take(self._files, self._space.used_bytes(), depth_max=self._depth_max)
        if known.unreadable:
            text = "what stands on it is not known while it cannot be read: repair or remove it"
            done.left.update((name.removesuffix(SUFFIX), text) for name in known.unreadable)
            done.is_done = True
            return TURN_BYTES
        for vdi in _choose(known):
            if vdi.uuid not in done.left and self._is_begun(vdi, known, done):
                return TURN_BYTES
        done.is_done = True
        return TURN_BYTES

    def _is_begun(self, vdi: Vdi, known: Inventory, done: Collected) -> bool:
        """Begin with a disk, or tell why not."""
        try:
            if not vdi.children and vdi.is_hidden:
                delete(self._files, file_of(vdi.uuid))
                done.deleted.append(vdi.uuid)
                return True
            if why := self._find_hindrance(vdi, known):
                done.left[vdi.uuid] = why
                return False
            self._work = begin_coalesce(self._files, file_of(vdi.uuid))
        except (Conflict, Invalid, NotFound, Exhausted) as error:
            done.left[vdi.uuid] = error.message
            return False
        return True

    def _find_hindrance(self, vdi: Vdi, known: Inventory) -> str:
        writers, readers = self._users(one.uuid for one in known.subtree(vdi.uuid))
        used = readers if vdi.is_hidden else readers | writers
        if used:
            return f"{', '.join(sorted(used))} is in use"
        if vdi.used_bytes > (free := self._space.free_bytes()):
            return f"its merge may need {vdi.used_bytes} bytes, and {free} are free"
        return ""

    def _users(self, uuids: Iterable[str]) -> tuple[set[str], set[str]]:
        """Tell which of some disks domains write to, and which are in any other use."""
        used = {uuid for uuid in uuids if self._pins.is_used(uuid)}
        writers = {uuid for uuid in used if self._pins.is_attached_writer(uuid)}
        return writers, used - writers

    def _subtree(self, work: Coalesce) -> list[str]:
        known = take(self._files, self._space.used_bytes(), depth_max=self._depth_max)
        return [one.uuid for one in known.subtree(work.note.child.removesuffix(SUFFIX))]

    def _merge(self, work: Coalesce, done: Collected, *, held: Collection[str] = ()) -> int:
        uuid = work.note.child.removesuffix(SUFFIX)
        try:
            if not work.step(TURN_BLOCKS):
                writers, readers = self._users(self._subtree(work))
                if readers:
                    done.left[uuid] = f"{', '.join(sorted(readers))} is in use"
                    self._drop()
                    return TURN_BYTES
                if writers - set(held):
                    done.writers = sorted(writers)
                    return TURN_BYTES
                work.finish()
                self._work = None
                done.coalesced.append(uuid)
        except (Conflict, Invalid, NotFound, Exhausted) as error:
            done.left[uuid] = error.message
            self._drop()
        except OSError as error:
            done.left[uuid] = error.strerror or str(error)
            self._drop()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        return TURN_BLOCKS * work.child.block_bytes

    def _drop(self) -> None:
        assert self._work is not None, "there is a merge to give up"
        work, self._work = self._work, None
        work.cancel()


def _choose(known: Inventory) -> list[Vdi]:
    """List what there is to do: garbage, then merges in the middle, the tallest tree's first."""
    garbage, middles, leaves = [], [], []
    for vdi in known.vdis.values():
        parent = known.vdis[vdi.parent] if vdi.parent else None
        if file_of(vdi.uuid) in known.strangers:
            continue
        if vdi.is_hidden and not vdi.children:
            garbage.append(vdi)
        elif vdi.error or parent is None or len(parent.children) > 1 or not parent.is_hidden:
            # A parent that is shown is somebody's disk, and keeps its bytes.
            continue
        elif vdi.is_hidden:
            middles.append(vdi)
        elif not vdi.children:
            leaves.append(vdi)
    middles.sort(key=lambda vdi: -max(one.depth for one in known.subtree(vdi.uuid)))
    return [*garbage, *middles, *leaves]
