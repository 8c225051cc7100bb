"""One host's objects: records by class and reference, and the order in which they changed.

Every change raises the generation, wakes whoever waits for events, and goes to the journal.
Values of fields are put in place of others and never changed where they stand, so records may
share them: a default is one object for all.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from xenith.core.world import World
from xenith.toolstack import roles
from xenith.toolstack.schema import CLASSES, SILENT
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

Record = dict[str, Any]
#: Told of every change: the fields that changed, or None for an object that is gone.
Keeper = Callable[[str, str, Record | None], None]
#: Tells whether an object of a class and reference is asked about.
Wants = Callable[[str, str], bool]

#: Deletions remembered for clients that lag; one that lags further is told to begin anew.
DELETIONS_MAX = 10_000
#: Classes that a restart forgets.
VOLATILE = frozenset(("session", "task", "role"))

_DEFAULTS: dict[str, Record] = {
    class_name: {name: field.make_default() for name, field in fields.items()}
    for class_name, fields in CLASSES.items()
}


class Deletion(NamedTuple):
    """An object that is gone, and between which generations it was there."""

    deleted: int
    created: int
    class_name: str
    ref: str


class Objects:
    """The database of one host."""

    def __init__(self, world: World, *, keep: Keeper | None = None) -> None:
        self._world = world
        self._keep = keep
        self._records: dict[str, dict[str, Record]] = {name: {} for name in CLASSES}
        self._by_uuid: dict[str, dict[str, str]] = {name: {} for name in CLASSES}
        self._by_label: dict[str, dict[str, dict[str, None]]] = {name: {} for name in CLASSES}
        # The roles are the same everywhere and for ever.
        self._records["role"] = roles.RECORDS
        self.generation = 1
        #: Which life of this database generations count in; those of another mean nothing here.
        self.epoch = world.ids.below(10**18)
        #: (class, ref) in order of their last change, with its generation and that of creation.
        self._changes: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._deletions: deque[Deletion] = deque()
        #: The generation of the last deletion that was forgotten.
        self._forgotten = 0
        self._waiting: list[tuple[Wants, asyncio.Future[None]]] = []

    # -- reading

    def get(self, class_name: str, ref: str) -> Record:
        """Get a record.

        Raises:
            XapiFault: HANDLE_INVALID.
        """
        record = self._records[class_name].get(ref)
        if record is None:
            raise XapiFault("HANDLE_INVALID", class_name, ref)
        return record

    def find(self, class_name: str, ref: str) -> Record | None:
        """Find a record, or None."""
        return self._records[class_name].get(ref)

    def all(self, class_name: str) -> dict[str, Record]:
        """Give all records of a class by reference; not to be changed."""
        return self._records[class_name]

    def by_uuid(self, class_name: str, uuid: str) -> str:
        """Give the reference of a uuid.

        Raises:
            XapiFault: UUID_INVALID.
        """
        ref = self._by_uuid[class_name].get(uuid)
        if class_name == "role" and f"OpaqueRef:{uuid}" in roles.RECORDS:
            return f"OpaqueRef:{uuid}"
        if ref is None:
            raise XapiFault("UUID_INVALID", class_name, uuid)
        return ref

    def by_label(self, class_name: str, label: str) -> list[str]:
        """List the references of a name."""
        if class_name == "role":
            found = roles.RECORDS.get(roles.ref_of(label))
            return [] if found is None else [roles.ref_of(label)]
        return list(self._by_label[class_name].get(label, ()))

    def only(self, class_name: str) -> str:
        """Give the one object of a class such as pool or host."""
        return next(iter(self._records[class_name]))

    # -- writing

    def create(self, class_name: str, **fields: Any) -> str:
        """Make an object with the class's defaults and these fields; give its reference."""
        fields.setdefault("uuid", self._world.ids.uuid())
        record = {**_DEFAULTS[class_name], **fields}
        ref = f"OpaqueRef:{self._world.ids.uuid()}"
        self._put(class_name, ref, record)
        self._changed(class_name, ref, fields, is_new=True)
        return ref

    def load(self, class_name: str, ref: str, record: Record) -> None:
        """Take an object over from the journal; fields that it lacks get their defaults."""
        whole = dict(_DEFAULTS[class_name])
        whole.update({name: value for name, value in record.items() if name in whole})
        self._put(class_name, ref, whole)
        self.generation += 1
        self._changes[class_name, ref] = (self.generation, self.generation)

    def insert(self, class_name: str, ref: str, record: Record) -> None:
        """Take over an object of another database, under the reference that it had there."""
        self._put(class_name, ref, record)
        self._changed(class_name, ref, record, is_new=True)

    def update(self, class_name: str, ref: str, **fields: Any) -> None:
        """Change fields of an object."""
        record = self.get(class_name, ref)
        if "name_label" in fields:
            self._unlabel(class_name, ref, record)
        record.update(fields)
        if "name_label" in fields:
            self._label(class_name, ref, record)
        self._changed(class_name, ref, fields)

    def touch(self, class_name: str, ref: str) -> None:
        """Count an object as changed."""
        self.get(class_name, ref)
        self._changed(class_name, ref, {})

    def delete(self, class_name: str, ref: str) -> None:
        """Remove an object."""
        record = self.get(class_name, ref)
        del self._records[class_name][ref]
        del self._by_uuid[class_name][record["uuid"]]
        self._unlabel(class_name, ref, record)
        self.generation += 1
        if class_name not in SILENT:
            _, created = self._changes.pop((class_name, ref))
            self._deletions.append(Deletion(self.generation, created, class_name, ref))
            if len(self._deletions) > DELETIONS_MAX:
                self._forgotten = self._deletions.popleft().deleted
            self._wake(class_name, ref)
        if self._keep is not None and class_name not in VOLATILE:
            self._keep(class_name, ref, None)

    def link(self, class_name: str, ref: str, field: str, other: str) -> None:
        """Add a reference to a set of references, if the object is there."""
        record = self.find(class_name, ref)
        if record is not None and other not in record[field]:
            self.update(class_name, ref, **{field: [*record[field], other]})

    def unlink(self, class_name: str, ref: str, field: str, other: str) -> None:
        """Take a reference out of a set of references, if the object is there."""
        record = self.find(class_name, ref)
        if record is not None and other in record[field]:
            kept = [item for item in record[field] if item != other]
            self.update(class_name, ref, **{field: kept})

    # -- events

    def changes_since(self, generation: int) -> Iterator[tuple[str, str, int, int]]:
        """Give (class, ref, changed, created) of what changed after a generation, newest first."""
        for (class_name, ref), (changed, created) in reversed(self._changes.items()):
            if changed <= generation:
                return
            yield class_name, ref, changed, created

    def deletions_since(self, generation: int) -> Iterator[tuple[str, str]]:
        """Give (class, ref) of what was there at a generation and is gone, newest first."""
        for gone in reversed(self._deletions):
            if gone.deleted <= generation:
                return
            if gone.created <= generation:
                yield gone.class_name, gone.ref

    def remembers(self, generation: int) -> bool:
        """Tell whether all deletions after a generation are known; from the start none matter."""
        return generation == 0 or generation >= self._forgotten

    def next_change(self, wants: Wants) -> asyncio.Future[None]:
        """Give what is done at the next change of an object that is asked about.

        Who waits no longer cancels it.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wants, future))
        return future

    # -- inside

    def _put(self, class_name: str, ref: str, record: Record) -> None:
        self._records[class_name][ref] = record
        self._by_uuid[class_name][record["uuid"]] = ref
        self._label(class_name, ref, record)

    def _label(self, class_name: str, ref: str, record: Record) -> None:
        label = record.get("name_label")
        if label is not None:
            self._by_label[class_name].setdefault(label, {})[ref] = None

    def _unlabel(self, class_name: str, ref: str, record: Record) -> None:
        labelled = self._by_label[class_name].get(record.get("name_label", NULL))
        if labelled is not None:
            labelled.pop(ref, None)
            if not labelled:
                del self._by_label[class_name][record["name_label"]]

    def _changed(self, class_name: str, ref: str, fields: Record, *, is_new: bool = False) -> None:
        self.generation += 1
        if class_name not in SILENT:
            key = (class_name, ref)
            created = self.generation if is_new else self._changes[key][1]
            self._changes[key] = (self.generation, created)
            self._changes.move_to_end(key)
            self._wake(class_name, ref)
        if self._keep is not None and class_name not in VOLATILE and fields:
            self._keep(class_name, ref, fields)

    def _wake(self, class_name: str, ref: str) -> None:
        if not self._waiting:
            return
        still: list[tuple[Wants, asyncio.Future[None]]] = []
        for wants, future in self._waiting:
            if future.done():
                continue
            if wants(class_name, ref):
                future.set_result(None)
            else:
                still.append((wants, future))
        self._waiting = still
