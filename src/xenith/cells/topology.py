"""The topology: which cells there are, who is whose parent, and whose keys count.

One small versioned document, a directed graph without loops in which a cell may have several
parents. The root key signs it, each cell keeps the newest it has seen, and neighbours pass it on
as the bytes that were signed, so that no cell need trust another about it. Documents are values:
an edit gives a new one with the next version, checked. A cell's id never changes; its path
(``api!dfw!c0001``) is computed for people and stands in no row.

A signed document, integers big-endian, offsets in bytes:

    0    4   magic, "XNTP"; no other thing that a key signs begins so
    4    1   format, 1
    5    n   the document: a msgpack map, see ``Topology``; unknown fields pass
    5+n  64  Ed25519 signature over all before
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec
import sqlalchemy as sa

from xenith.cells.frames import BODY_BYTES_MAX
from xenith.cells.keys import KEY_BYTES, SIGNATURE_BYTES, CellKey, KeyBytes, PublicKey
from xenith.core.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge
from xenith.core.ids import CellId
from xenith.db import CELL, Tx

#: Fifty thousand hosts at a hundred a cell are 500 cells; four times that, at the 400 bytes that a
#: cell takes, still fits one frame.
CELLS_MAX = 2048
#: Cells on the longest way down. Each adds a hop to a build, and with two children each, twelve
#: levels are already more leaves than there may be cells.
DEPTH_MAX = 12
#: A signed document is sent whole in one frame, beside a little of the link's own.
SIGNED_BYTES_MAX = BODY_BYTES_MAX - 4096
#: Characters of a broker's address, a project's id or a flavor class.
TEXT_MAX = 255

#: closed: takes no new builds. open: takes them. draining: takes none and is being emptied.
State = Literal["closed", "open", "draining"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"[\x21-\x7e]{0,255}")
_MAGIC = b"XNTP"
_FORMAT = 1

topologies = sa.Table(
    "topologies",
    CELL,
    # There is one row, and its number is 1.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    # As it was signed: a field that this program does not know is passed on.
    sa.Column("document", sa.LargeBinary, nullable=False),
)


#: A certificate of an elliptic curve has about 400 bytes; every cell reads every one.
CERTIFICATE_BYTES_MAX = 2048


class CellEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of the tree."""

    id: CellId
    name: str
    #: In order: the first is the one that the path for display goes through.
    parents: tuple[CellId, ...]
    key: PublicKey
    state: State = "closed"
    #: Its share of builds beside its siblings; 0 takes none. At least 0.
    weight: float = 1.0
    #: Added to what the chooser makes of it; an operator's thumb on the scale, of either sign.
    weight_offset: float = 0.0
    #: When not empty, the only projects whose servers it takes.
    projects: tuple[str, ...] = ()
    #: When not empty, the only classes of flavor that it takes.
    flavor_classes: tuple[str, ...] = ()
    #: The address of its link broker; accounts and passwords stand in files of the cells.
    broker: str = ""
    #: The certificate that the broker's must come from, in DER; empty for a broker without TLS.
    broker_ca: bytes = b""
    #: Where the servers of a draining cell would best go.
    successor: CellId | None = None


class Topology(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One version of the document. Methods on ids that it does not know find nothing."""

    region: str
    version: int
    cells: tuple[CellEntry, ...]
    #: Signing keys that count no more.
    revoked: tuple[KeyBytes, ...] = ()

    def find(self, id_or_name: str) -> CellEntry | None:
        """Find a cell by its id or its name, or None."""
        return self._by_id.get(CellId(id_or_name)) or self._by_name.get(id_or_name)

    def get(self, id_or_name: str) -> CellEntry:
        """Get a cell by its id or its name.

        Raises:
            NotFound: there is none.
        """
        if (entry := self.find(id_or_name)) is None:
            raise NotFound(f"no cell {id_or_name!r} in version {self.version} of {self.region}")
        return entry

    def children(self, cell_id: CellId) -> tuple[CellEntry, ...]:
        """List a cell's children, in the document's order."""
        return self._children.get(cell_id, ())

    def parents(self, cell_id: CellId) -> tuple[CellEntry, ...]:
        """List a cell's parents, in its own order."""
        entry = self._by_id.get(cell_id)
        found = () if entry is None else entry.parents
        return tuple(self._by_id[parent] for parent in found if parent in self._by_id)

    def roots(self) -> tuple[CellEntry, ...]:
        """List the cells without parents: the API cells."""
        return tuple(entry for entry in self.cells if not entry.parents)

    def descendants(self, cell_id: CellId) -> frozenset[CellId]:
        """Give the ids of all cells below a cell, without its own."""
        found = self._descendants.get(cell_id)
        if found is None:
            if cell_id not in self._by_id:
                # Not remembered: ids come from outside, and there is no end of unknown ones.
                return frozenset()
            found = self._descendants[cell_id] = self._walk_down(cell_id)
        return found

    def next_hops(self, from_id: CellId, to_id: CellId) -> tuple[CellId, ...]:
        """List the children of one cell that are another, or lead to it."""
        return tuple(
            child.id
            for child in self.children(from_id)
            if child.id == to_id or to_id in self.descendants(child.id)
        )

    def path(self, cell_id: CellId) -> str:
        """Write the names from the root down to a cell, by first parents; for people only."""
        entry = self._by_id.get(cell_id)
        if entry is None:
            return cell_id
        names: list[str] = []
        while entry is not None and len(names) < DEPTH_MAX:
            names.append(entry.name)
            entry = self._by_id.get(entry.parents[0]) if entry.parents else None
        return "!".join(reversed(names))

    def public_key_of(self, cell_id: CellId) -> PublicKey | None:
        """Give a cell's key, or None when there is no such cell or its key counts no more."""
        entry = self._by_id.get(cell_id)
        return None if entry is None or entry.key.signing in self._revoked else entry.key

    def is_revoked(self, cell_id: CellId) -> bool:
        """Tell whether a cell stands here with a key that counts no more."""
        entry = self._by_id.get(cell_id)
        return entry is not None and entry.key.signing in self._revoked

    # A document never changes, so what is worked out from it is worked out once.

    @cached_property
    def _by_id(self) -> dict[CellId, CellEntry]:
        return {entry.id: entry for entry in self.cells}

    @cached_property
    def _by_name(self) -> dict[str, CellEntry]:
        return {entry.name: entry for entry in self.cells}

    @cached_property
    def _children(self) -> dict[CellId, tuple[CellEntry, ...]]:
        found: dict[CellId, list[CellEntry]] = {}
        for entry in self.cells:
            for parent in entry.parents:
                found.setdefault(parent, []).append(entry)
        return {parent: tuple(children) for parent, children in found.items()}

    @cached_property
    def _revoked(self) -> frozenset[bytes]:
        return frozenset(self.revoked)

    @cached_property
    def _descendants(self) -> dict[CellId, frozenset[CellId]]:
        return {}

    def _walk_down(self, cell_id: CellId) -> frozenset[CellId]:
        seen: set[CellId] = set()
        ahead = [cell_id]
        while ahead:
            for child in self.children(ahead.pop()):
                if child.id not in seen:
                    seen.add(child.id)
                    ahead.append(child.id)
        return frozenset(seen)


# -- what a document must be


def check(topology: Topology) -> None:
    """Hold a document against the rules.

    Raises:
        Invalid: it breaks one; the message names the cell and the rule.
    """
    if not 0 < len(topology.region) <= TEXT_MAX or not topology.region.isprintable():
        raise Invalid("a topology needs the name of its region, of at most 255 characters")
    if not 0 < topology.version < 2**63:
        raise Invalid(f"{topology.version} is no version: they count from 1")
    if len(topology.cells) > CELLS_MAX:
        raise Invalid(f"{len(topology.cells)} cells are above the limit of {CELLS_MAX}")
    for entry in topology.cells:
        _check_entry(entry)
    for key in topology.revoked:
        if len(key) != KEY_BYTES:
            raise Invalid(f"a revoked key has {len(key)} bytes: signing keys have {KEY_BYTES}")
    _check_unique(topology)
    _check_references(topology)
    if (depth := _depth(topology)) > DEPTH_MAX:
        raise Invalid(f"the tree has {depth} levels: the limit is {DEPTH_MAX}")
    if not topology.roots():
        raise Invalid("the topology has no root: one cell at least has no parent")


def _check_entry(entry: CellEntry) -> None:
    if not _ID.fullmatch(entry.id):
        raise Invalid(f"{entry.id!r} is no id of a cell")
    what = f"cell {entry.id}"
    if not NAME.fullmatch(entry.name):
        raise Invalid(
            f"{what}: the name {entry.name!r} is not one of at most 63 small letters, digits and "
            "dashes that begins with a letter or a digit"
        )
    what = f"cell {entry.name}"
    if entry.state not in get_args(State):
        raise Invalid(f"{what}: {entry.state!r} is no state: {', '.join(get_args(State))}")
    if not math.isfinite(entry.weight) or entry.weight < 0:
        raise Invalid(f"{what}: the weight {entry.weight} is not a number of 0 or more")
    if not math.isfinite(entry.weight_offset):
        raise Invalid(f"{what}: the weight offset {entry.weight_offset} is not a finite number")
    if len(entry.key.signing) != KEY_BYTES or len(entry.key.sealing) != KEY_BYTES:
        raise Invalid(f"{what}: its keys have not {KEY_BYTES} bytes")
    for text in (*entry.projects, *entry.flavor_classes):
        if not 0 < len(text) <= TEXT_MAX:
            raise Invalid(f"{what}: a project or flavor class is empty or above {TEXT_MAX} letters")
    _check_broker(what, entry.broker)
    if len(entry.broker_ca) > CERTIFICATE_BYTES_MAX:
        raise Invalid(f"{what}: the broker's certificate is above {CERTIFICATE_BYTES_MAX} bytes")
    if entry.successor is not None and entry.state != "draining":
        raise Invalid(f"{what}: it is {entry.state}, and only a draining cell has a successor")


def _check_broker(what: str, broker: str) -> None:
    # The document is read by every cell, and an address is shown to people. The message does not
    # repeat it, since what is wrong with it may be a password.
    if "@" in broker:
        raise Invalid(
            f"{what}: the broker's address carries an account; those stand in no topology"
        )
    if not _ADDRESS.fullmatch(broker) or "?" in broker or "#" in broker:
        raise Invalid(
            f"{what}: the broker's address is not scheme://host:port/path in at most 255 plain "
            "characters; options stand in the cells' settings"
        )


def _check_unique(topology: Topology) -> None:
    ids = {entry.id for entry in topology.cells}
    if len(ids) < len(topology.cells):
        raise Invalid(f"two cells have the id {_twice(entry.id for entry in topology.cells)}")
    if len({entry.name for entry in topology.cells}) < len(ids):
        raise Invalid(f"two cells have the name {_twice(entry.name for entry in topology.cells)}")
    owners: dict[bytes, CellEntry] = {}
    for entry in topology.cells:
        if entry.name in ids and entry.name != entry.id:
            raise Invalid(f"cell {entry.id} has the id of another cell, {entry.name}, as its name")
        # A machine copied with its key file would let each of the two speak as the other.
        other = owners.setdefault(entry.key.signing, entry)
        if other is not entry:
            raise Invalid(f"cells {other.name} and {entry.name} have one key: each needs its own")


def _twice(texts: Iterable[str]) -> str:
    return Counter(texts).most_common(1)[0][0]


def _check_references(topology: Topology) -> None:
    ids = {entry.id for entry in topology.cells}
    for entry in topology.cells:
        what = f"cell {entry.name}"
        for parent in entry.parents:
            if parent == entry.id:
                raise Invalid(f"{what} is its own parent")
            if parent not in ids:
                raise Invalid(f"{what}: its parent {parent!r} is not in the topology")
        if len(set(entry.parents)) < len(entry.parents):
            raise Invalid(f"{what} has the parent {_twice(entry.parents)} twice")
        if entry.successor == entry.id:
            raise Invalid(f"{what} is its own successor")
        if entry.successor is not None and entry.successor not in ids:
            raise Invalid(f"{what}: its successor {entry.successor!r} is not in the topology")


def _depth(topology: Topology) -> int:
    """Count the cells on the longest way down.

    Takes away roots until nothing is left; what has only parents that are left is in a loop.
    """
    parents_left = {entry.id: len(entry.parents) for entry in topology.cells}
    level = [cell_id for cell_id, count in parents_left.items() if count == 0]
    depth = 0
    while level:
        depth += 1
        below: list[CellId] = []
        for cell_id in level:
            del parents_left[cell_id]
            for child in topology.children(cell_id):
                parents_left[child.id] -= 1
                if parents_left[child.id] == 0:
                    below.append(child.id)
        level = below
    if parents_left:
        raise Invalid(f"the topology has a loop: {_loop(topology, set(parents_left))}")
    return depth


def _loop(topology: Topology, left: set[CellId]) -> str:
    """Name the cells of one loop: each cell that is left has a parent that is left."""
    seen: list[CellId] = [min(left)]
    while True:
        parent = next(parent.id for parent in topology.parents(seen[-1]) if parent.id in left)
        if parent in seen:
            loop = [*seen[seen.index(parent) :], parent]
            return "!".join(topology.get(cell_id).name for cell_id in reversed(loop))
        seen.append(parent)


# -- edits: each gives the next version, checked


def with_cell(topology: Topology, entry: CellEntry) -> Topology:
    """Add a cell.

    Raises:
        Conflict: its id or name is taken.
        Forbidden: its key was revoked.
        Invalid: the new document breaks a rule.
    """
    for taken in (entry.id, entry.name):
        if topology.find(taken) is not None:
            raise Conflict(f"there is a cell {taken} in {topology.region} already")
    _refuse_revoked(topology, entry.key)
    return _next(topology, cells=(*topology.cells, entry))


def without_cell(topology: Topology, cell_id: CellId) -> Topology:
    """Take a cell out and revoke its key.

    Raises:
        NotFound: there is no such cell.
        Conflict: it has children.
        Invalid: it is the only root.
    """
    gone = topology.get(cell_id)
    if children := topology.children(gone.id):
        raise Conflict(
            f"cell {gone.name} has {len(children)} children, {children[0].name} among them: remove "
            "them first, or give them other parents"
        )
    cells = tuple(
        msgspec.structs.replace(entry, successor=None) if entry.successor == gone.id else entry
        for entry in topology.cells
        if entry.id != gone.id
    )
    return _next(topology, cells=cells, revoked=_revoked_with(topology, gone.key))


def with_state(
    topology: Topology, cell_id: CellId, state: State, *, successor: CellId | None = None
) -> Topology:
    """Open, close or drain a cell; a draining one may name its successor."""
    return _changed(topology, cell_id, state=state, successor=successor)


def with_weight(topology: Topology, cell_id: CellId, weight: float, offset: float) -> Topology:
    """Give a cell another share of builds."""
    return _changed(topology, cell_id, weight=float(weight), weight_offset=float(offset))


def with_rules(
    topology: Topology,
    cell_id: CellId,
    *,
    projects: Iterable[str] | None = None,
    flavor_classes: Iterable[str] | None = None,
) -> Topology:
    """Say which projects and flavor classes a cell is kept for; what is None stays as it is."""
    changes: dict[str, Any] = {}
    if projects is not None:
        changes["projects"] = tuple(dict.fromkeys(projects))
    if flavor_classes is not None:
        changes["flavor_classes"] = tuple(dict.fromkeys(flavor_classes))
    return _changed(topology, cell_id, **changes)


def with_parents(topology: Topology, cell_id: CellId, parents: Iterable[CellId]) -> Topology:
    """Put a cell under other parents."""
    return _changed(topology, cell_id, parents=tuple(parents))


def with_broker(topology: Topology, cell_id: CellId, broker: str, broker_ca: bytes) -> Topology:
    """Say that a cell's link broker has another address, or a certificate from elsewhere."""
    return _changed(topology, cell_id, broker=broker, broker_ca=broker_ca)


def with_key(topology: Topology, cell_id: CellId, key: PublicKey) -> Topology:
    """Give a cell a new key; the old one is revoked.

    Raises:
        Forbidden: the new key was itself revoked.
    """
    old = topology.get(cell_id).key
    _refuse_revoked(topology, key)
    revoked = topology.revoked if old.signing == key.signing else _revoked_with(topology, old)
    return _changed(msgspec.structs.replace(topology, revoked=revoked), cell_id, key=key)


def without_key(topology: Topology, cell_id: CellId) -> Topology:
    """Revoke a cell's key and leave the cell: nothing it says counts until it has a new one."""
    return _next(topology, revoked=_revoked_with(topology, topology.get(cell_id).key))


def _changed(topology: Topology, cell_id: CellId, **changes: Any) -> Topology:
    changed = topology.get(cell_id)
    cells = tuple(
        msgspec.structs.replace(entry, **changes) if entry is changed else entry
        for entry in topology.cells
    )
    return _next(topology, cells=cells)


def _next(topology: Topology, **changes: Any) -> Topology:
    edited = msgspec.structs.replace(topology, version=topology.version + 1, **changes)
    check(edited)
    return edited


def _refuse_revoked(topology: Topology, key: PublicKey) -> None:
    if key.signing in topology.revoked:
        raise Forbidden(f"the key {key.fingerprint()} was revoked: the cell needs a new one")


def _revoked_with(topology: Topology, key: PublicKey) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys((*topology.revoked, key.signing)))


# -- signed, and kept


def sign(topology: Topology, root_key: CellKey) -> bytes:
    """Write a document down and sign it with the root key.

    Raises:
        Invalid: it breaks a rule.
        TooLarge: it is above ``SIGNED_BYTES_MAX``.
    """
    check(topology)
    data = _MAGIC + bytes((_FORMAT,)) + msgspec.msgpack.encode(topology)
    size = len(data) + SIGNATURE_BYTES
    if size > SIGNED_BYTES_MAX:
        raise TooLarge(f"the topology has {size} bytes, above {SIGNED_BYTES_MAX}: shorten rules")
    return data + root_key.sign(data)


def open_signed(data: bytes, root: PublicKey) -> Topology:
    """Read a document that the root key signed; nothing of it is read before that is known.

    Raises:
        Invalid: it is no signed topology, of a newer format, or breaks a rule.
        Forbidden: another key signed it, or it was changed since.
    """
    if len(data) > SIGNED_BYTES_MAX:
        raise Invalid(f"a topology of {len(data)} bytes is above {SIGNED_BYTES_MAX}")
    if not data.startswith(_MAGIC) or len(data) <= len(_MAGIC) + 1 + SIGNATURE_BYTES:
        raise Invalid("this is no signed topology: it is unsigned, cut short or something else")
    signature_at = len(data) - SIGNATURE_BYTES
    if not root.verify(data[:signature_at], data[signature_at:]):
        raise Forbidden(
            f"the topology is not signed with the root key {root.fingerprint()}, or was changed"
        )
    if data[len(_MAGIC)] != _FORMAT:
        raise Invalid(
            f"the topology has format {data[len(_MAGIC)]}, this program reads {_FORMAT}: upgrade"
        )
    try:
        topology = _decoder.decode(data[len(_MAGIC) + 1 : signature_at])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"the signed topology cannot be read: {error}") from error
    check(topology)
    return topology


_decoder = msgspec.msgpack.Decoder(Topology)


def save(tx: Tx, signed: bytes, topology: Topology) -> bool:
    """Keep a signed document if it is newer than the one kept; tell whether it was.

    ``topology`` is what ``open_signed`` gave for the same bytes. Transaction function.
    """
    kept = tx.find(topologies, number=1)
    if kept is not None and kept.version >= topology.version:
        return False
    tx.upsert(topologies, {"number": 1, "version": topology.version, "document": signed})
    return True


def find_signed(tx: Tx) -> bytes | None:
    """Find the document kept, as it was signed, or None. Transaction function."""
    kept = tx.find(topologies, number=1)
    return None if kept is None else bytes(kept.document)
