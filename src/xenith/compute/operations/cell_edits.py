"""Changes to the tree of cells: who may join, who takes builds, who goes.

Each is an edit of the topology, which the root signs and every cell then follows. An edit that
another one overtook is made again on the newest document. A cell enters only with its own key: an
operator gets a token, and the new cell exchanges that for its place, closed until it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from xenith.bus.address import read_place
from xenith.cells import joining
from xenith.cells import topology as documents
from xenith.cells.keys import KEY_BYTES, PublicKey
from xenith.cells.rebuilding import Rebuilt, rebuild
from xenith.cells.topology import CellEntry, State, Topology
from xenith.compute.operations.cell_tree import count_living, from_the_top
from xenith.compute.operations.context import Context
from xenith.compute.records.hosts import HOSTS, hosts
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.clock import iso_seconds
from xenith.core.errors import Conflict, Invalid, NotFound, Unavailable, XenithError
from xenith.core.ids import CellId, derive_uuid
from xenith.core.log import logger
from xenith.db import Row, Tx

_log = logger("compute.cells")

UNSET = msgspec.UNSET

_OWNED = sa.select(servers.c.id).where(
    servers.c.id == instances.c.id,
    servers.c.cell_id == instances.c.cell_id,
    servers.c.deleted_at.is_(None),
)
_FORGET_UNOWNED = sa.delete(instances).where(
    instances.c.cell_id == sa.bindparam("gone"),
    instances.c.vm_state != "deleted",
    ~_OWNED.exists(),
)

#: Times that an edit is made again because another one came first.
EDITS_MAX = 8
_EDIT_AGAIN_S = 0.05
#: Seconds that a token is good for when nobody says.
TOKEN_LIFE_S = 86400.0
#: Seconds that each cell has to bring a projection back.
REBUILD_TIMEOUT_S = 20.0

_Text = Annotated[str, msgspec.Meta(max_length=255)]
_HexCertificate = Annotated[str, msgspec.Meta(max_length=2 * documents.CERTIFICATE_BYTES_MAX)]
_HexKey = Annotated[str, msgspec.Meta(min_length=2 * KEY_BYTES, max_length=2 * KEY_BYTES)]


class AddBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell that is to come."""

    name: _Text
    #: Ids or names; empty: the root.
    parents: tuple[_Text, ...] = ()
    weight: float = 1.0
    weight_offset: float = 0.0
    projects: tuple[_Text, ...] = ()
    flavor_classes: tuple[_Text, ...] = ()
    broker: _Text = ""
    #: Seconds until the token is good no more.
    life_s: float = TOKEN_LIFE_S
    #: Where the new cell finds the API; empty: where this request found it.
    api_url: Annotated[str, msgspec.Meta(max_length=joining.URL_TEXT_MAX)] = ""


class ChangeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be different about a cell; what is left out stays."""

    state: Literal["open", "closed", "draining"] | msgspec.UnsetType = UNSET
    successor: _Text | msgspec.UnsetType | None = UNSET
    weight: float | msgspec.UnsetType = UNSET
    weight_offset: float | msgspec.UnsetType = UNSET
    projects: tuple[_Text, ...] | msgspec.UnsetType = UNSET
    flavor_classes: tuple[_Text, ...] | msgspec.UnsetType = UNSET
    parents: tuple[_Text, ...] | msgspec.UnsetType = UNSET
    broker: _Text | msgspec.UnsetType = UNSET
    #: The certificate that the broker's comes from, DER in hexadecimal digits.
    broker_ca: _HexCertificate | msgspec.UnsetType = UNSET


class JoinBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a new cell says of itself. The secret is the credential; keys are hexadecimal digits."""

    secret: Annotated[str, msgspec.Meta(max_length=128)]
    signing_key: _HexKey
    sealing_key: _HexKey
    broker: _Text = ""
    broker_ca: _HexCertificate = ""

    def __repr__(self) -> str:
        return f"JoinBody(signing_key={self.signing_key!r}, secret=***)"


class CellEdits:
    """Operations that change the tree."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- in

    async def add(self, body: AddBody, *, api_url: str) -> dict[str, Any]:
        """Issue the token with which one new cell joins; an unused one of its name is void.

        Raises:
            Invalid: the entry would break a rule of the topology.
            Conflict: there is such a cell, or a parent has hosts of its own.
        """
        topology = self._context.node.topology
        root = self._context.node.root
        parents = _resolved(topology, body.parents) or (self._context.node.cell_id,)
        wish = {
            "weight": body.weight,
            "weight_offset": body.weight_offset,
            "projects": list(body.projects),
            "flavor_classes": list(body.flavor_classes),
            "broker": body.broker,
        }
        # Tried with a key that is nobody's, so that what is wrong is said now and not at the join.
        nobody = PublicKey(signing=bytes(KEY_BYTES), sealing=bytes(KEY_BYTES))
        # No name has a dot, so the id is nobody's name.
        entry = _entry(body.name, parents, wish, cell_id=CellId("to.come"), key=nobody)
        documents.with_cell(topology, entry)

        def issue(tx: Tx) -> str:
            self._refuse_hosts_beside(tx, topology, parents)
            now_s = tx.world.clock.now()
            joining.prune(tx, before_s=now_s - joining.LIFE_S_MAX)
            joining.revoke(tx, body.name)
            return joining.issue(
                tx,
                name=body.name,
                parents=parents,
                life_s=body.life_s,
                api_url=body.api_url or api_url,
                root=root,
                wish=wish,
            )

        token = await self._context.db.run(issue)
        _log.info("cell expected", name=body.name, parents=parents)
        return {
            "name": body.name,
            "parents": [topology.get(parent).name for parent in parents],
            "token": token,
            "expires_at": iso_seconds(self._context.world.clock.now() + body.life_s),
        }

    async def join(self, body: JoinBody) -> dict[str, Any]:
        """Give a new cell its place, closed, for its token.

        Asked again by the same cell with the same token, it answers the same.

        Raises:
            Forbidden: the secret is unknown, used or expired; which, is not said.
            Invalid: its key or broker is none; its parents are gone.
            Conflict: its name was taken meanwhile.
        """
        node = self._context.node
        key = PublicKey(
            signing=_from_hex(body.signing_key, "signing_key"),
            sealing=_from_hex(body.sealing_key, "sealing_key"),
        )
        certificate = _from_hex(body.broker_ca, "broker_ca")
        cell_id = CellId(
            derive_uuid("joined cell", node.topology.region, key.signing.hex(), key.sealing.hex())
        )

        def claim(tx: Tx) -> CellEntry:
            now_s = tx.world.clock.now()
            known = joining.find_redeemed(tx, body.secret, now_s=now_s, cell_id=cell_id)
            row = known or joining.redeem(tx, body.secret, now_s=now_s, cell_id=cell_id)
            wish = {**(row.wish or {})}
            if body.broker:
                wish["broker"] = body.broker
            parents = tuple(CellId(parent) for parent in row.parents)
            entry = _entry(row.cell_name, parents, wish, cell_id=cell_id, key=key)
            entry = msgspec.structs.replace(entry, broker_ca=certificate)
            # Tried here: what the topology will not have leaves the token as it was.
            _with_joined(node.topology, entry)
            return entry

        entry = await self._context.db.run(claim)
        topology = await self._edit(lambda newest: _with_joined(newest, entry))
        _log.info("cell joined", cell=cell_id, name=entry.name, key=key.fingerprint())
        return {
            "cell_id": cell_id,
            "name": entry.name,
            "region": topology.region,
            "topology": node.signed_topology.hex(),
        }

    # -- other

    async def change(self, ref: str, body: ChangeBody) -> str:
        """Change what the topology says of a cell; give its id.

        Raises:
            NotFound: there is no such cell.
            Invalid: the new document breaks a rule: a loop, an unknown parent, a weight below 0.
            Conflict: it is a root, or a new parent has hosts of its own.
        """
        node = self._context.node
        entry = node.topology.get(ref)
        if not entry.parents and not (body.state is body.parents is body.successor is UNSET):
            raise Conflict(f"{entry.name} is the root: cells below it are opened, drained or moved")
        if body.parents is not UNSET:
            if not body.parents:
                raise Invalid(f"cell {entry.name} needs a parent: there is one root")
            # What is wrong in itself is said before what stands in its way.
            _changed(node.topology, entry.id, body)
            parents = _resolved(node.topology, body.parents)
            await self._context.db.read(self._refuse_hosts_beside, node.topology, parents)
        await self._edit(lambda newest: _changed(newest, entry.id, body))
        _log.info("cell changed", cell=entry.id, name=entry.name)
        return entry.id

    async def rebuild(self, ref: str) -> dict[str, Any]:
        """Drop what this cell and those between know of a cell and all below, and have it anew.

        Raises:
            NotFound: there is no such cell.
            Unavailable: no child that leads there answers; nothing was dropped here.
        """
        node = self._context.node
        topology = node.topology
        entry = topology.get(ref)
        between = [
            each
            for each in reversed(from_the_top(topology))
            if entry.id in topology.descendants(each.id)
            and each.id in topology.descendants(node.cell_id)
        ]
        # From below: who is above reads anew what the one below has read anew.
        done = [{"cell": each.name, **await self._rebuild_at(each, entry)} for each in between]
        found = await rebuild(node, entry.id, timeout_s=REBUILD_TIMEOUT_S)
        if found.untouched and not found.whole and not found.coming:
            raise Unavailable(
                f"cell {entry.name} cannot be reached now: what is known of it was left as it is"
            )
        done.append({"cell": topology.get(node.cell_id).name, **self._named(found)})
        return {"rebuilt": entry.name, "in": done}

    async def _rebuild_at(self, between: CellEntry, entry: CellEntry) -> dict[str, Any]:
        params = {"cell": entry.id, "timeout_s": REBUILD_TIMEOUT_S}
        try:
            told = await self._context.node.ask(
                between.id, "rebuild", params, timeout_s=REBUILD_TIMEOUT_S + 2
            )
            return self._named(msgspec.convert(told, Rebuilt))
        except XenithError as error:
            return {**self._named(Rebuilt()), "error": error.message}
        except msgspec.ValidationError:
            return {**self._named(Rebuilt()), "error": "its answer cannot be read"}

    def _named(self, found: Rebuilt) -> dict[str, Any]:
        topology = self._context.node.topology
        return {
            what: [each if (cell := topology.find(each)) is None else cell.name for each in ids]
            for what, ids in msgspec.structs.asdict(found).items()
        }

    # -- out

    async def remove(self, ref: str, *, is_forced: bool) -> dict[str, Any]:
        """Take a cell out of the tree and revoke its key; tell what stays behind.

        One that has not joined yet loses its token. Forced, a cell with servers goes too, and its
        children stay with their other parents.

        Raises:
            NotFound: there is no such cell, and none is expected.
            Conflict: it is the root, or has servers or children.
        """
        node = self._context.node
        entry = node.topology.find(ref)
        if entry is None:
            return await self._expect_no_more(ref)
        if not entry.parents:
            raise Conflict(f"{entry.name} is the root: it goes with the whole cloud")
        living, host_count = await self._context.db.read(_count_of, entry.id)
        children = [child.name for child in node.topology.children(entry.id)]
        if not is_forced and (living or children):
            what = [_counted(living, "living server")] if living else []
            what += [f"the children {', '.join(children)}"] if children else []
            raise Conflict(
                f"cell {entry.name} has {' and '.join(what)}: drain it first; forced, it goes and "
                "they stay behind"
            )
        await self._edit(lambda newest: _without(newest, entry.id))
        await self._context.db.run(forget_cell, entry.id)
        _log.warning("cell removed", cell=entry.id, name=entry.name, servers=living)
        stays = []
        if living:
            stays.append(
                f"{_counted(living, 'server')}: listed as last known, running on, and out of reach "
                "from here"
            )
        if host_count:
            stays.append(
                f"{_counted(host_count, 'host')}, with what runs on them: they are the cell's, and "
                "no longer this cloud's"
            )
        if children:
            stays.append(f"the cells {', '.join(children)}, below their other parents")
        return {"removed": entry.name, "id": entry.id, "servers": living, "stays": stays}

    async def _expect_no_more(self, name: str) -> dict[str, Any]:
        if not await self._context.db.run(joining.revoke, name):
            raise NotFound(f"no cell {name!r} is in the tree or expected")
        return {"removed": name, "id": None, "servers": 0, "stays": []}

    # -- the document

    async def _edit(self, edit: Callable[[Topology], Topology]) -> Topology:
        """Make an edit of the newest document, again if another one came first."""
        node = self._context.node
        for _ in range(EDITS_MAX):
            newest = node.topology
            edited = edit(newest)
            if edited is newest:
                return newest
            try:
                await node.publish(edited)
            except Conflict:
                if node.key.public != node.root:
                    raise
                await self._context.world.clock.sleep(_EDIT_AGAIN_S)
            else:
                return edited
        raise Conflict("others change the topology at this moment: try again")

    def _refuse_hosts_beside(self, tx: Tx, topology: Topology, parents: Iterable[CellId]) -> None:
        """Hold that a cell has hosts or children, since builds go to one or the other."""
        for parent in parents:
            is_own = parent == self._context.node.cell_id and self._context.node.is_leaf
            if is_own or tx.list(hosts, cell_id=parent, is_removed=False):
                way_out = (
                    "start it with the setting role = root" if is_own else "take its hosts out"
                )
                raise Conflict(
                    f"cell {topology.get(parent).name} has hosts of its own, and a cell has hosts "
                    f"or children: choose a parent without, or {way_out}"
                )


def _entry(
    name: str, parents: tuple[CellId, ...], wish: dict[str, Any], *, cell_id: CellId, key: PublicKey
) -> CellEntry:
    return CellEntry(
        id=cell_id,
        name=name,
        parents=parents,
        key=key,
        state="closed",
        weight=float(wish.get("weight", 1.0)),
        weight_offset=float(wish.get("weight_offset", 0.0)),
        projects=tuple(wish.get("projects", ())),
        flavor_classes=tuple(wish.get("flavor_classes", ())),
        broker=str(wish.get("broker", "")),
    )


def _with_joined(topology: Topology, entry: CellEntry) -> Topology:
    """Add a cell, unless it has its place already."""
    known = topology.find(entry.id)
    return documents.with_cell(topology, entry) if known is None else topology


def _resolved(topology: Topology, refs: Iterable[str]) -> tuple[CellId, ...]:
    """Give ids for ids or names.

    Raises:
        Invalid: one is unknown.
    """
    found = []
    for ref in refs:
        entry = topology.find(ref)
        if entry is None:
            raise Invalid(f"there is no cell {ref[:64]!r} to be a parent or successor")
        found.append(entry.id)
    return tuple(found)


def _changed(topology: Topology, cell_id: CellId, body: ChangeBody) -> Topology:
    entry = topology.get(cell_id)
    edited = topology
    if body.parents is not UNSET:
        edited = documents.with_parents(edited, cell_id, _resolved(topology, body.parents))
    if body.projects is not UNSET or body.flavor_classes is not UNSET:
        edited = documents.with_rules(
            edited,
            cell_id,
            projects=_or_none(body.projects),
            flavor_classes=_or_none(body.flavor_classes),
        )
    if body.weight is not UNSET or body.weight_offset is not UNSET:
        edited = documents.with_weight(
            edited,
            cell_id,
            entry.weight if body.weight is UNSET else body.weight,
            entry.weight_offset if body.weight_offset is UNSET else body.weight_offset,
        )
    if body.broker is not UNSET or body.broker_ca is not UNSET:
        edited = documents.with_broker(edited, cell_id, *_broker_of(entry, body))
    if body.state is not UNSET or body.successor is not UNSET:
        state: State = entry.state if body.state is UNSET else body.state
        named = None if body.successor is UNSET else body.successor
        successor = _resolved(topology, [named])[0] if named else None
        edited = documents.with_state(edited, cell_id, state, successor=successor)
    return edited


def _broker_of(entry: CellEntry, body: ChangeBody) -> tuple[str, bytes]:
    """Say where a cell's broker is and what its certificate comes from, as far as told anew."""
    broker = entry.broker if body.broker is UNSET else body.broker
    certificate = entry.broker_ca
    if body.broker_ca is not UNSET:
        certificate = _from_hex(body.broker_ca, "broker_ca")
    elif not broker.startswith("amqps:"):
        certificate = b""
    if broker or certificate:
        # A typing error here would take the cell from its parents.
        read_place(broker, has_certificate=bool(certificate))
    return broker, certificate


def _or_none(value: tuple[str, ...] | msgspec.UnsetType) -> tuple[str, ...] | None:
    return None if value is UNSET else value


def _without(topology: Topology, cell_id: CellId) -> Topology:
    """Take a cell out; its children keep their other parents, and must have some."""
    edited = topology
    for child in topology.children(cell_id):
        others = [parent for parent in child.parents if parent != cell_id]
        if others:
            edited = documents.with_parents(edited, child.id, others)
    return documents.without_cell(edited, cell_id)


def _count_of(tx: Tx, cell_id: CellId) -> tuple[int, int]:
    return count_living(tx, cell_id), len(tx.list(hosts, cell_id=cell_id, is_removed=False))


def forget_cell(tx: Tx, cell_id: str) -> None:
    """Note of hosts whose cell is gone that they are; with servers, their rows are still shown.

    What the cell held and no server is, nobody can have it let go of any more.
    Transaction function.
    """
    tx.run(_FORGET_UNOWNED, gone=cell_id)
    values: dict[str, Any] = {"is_up": False, "down_reason": "its cell was removed"}
    if not count_living(tx, CellId(cell_id)):
        values["is_removed"] = True
    tx.update(hosts, {"cell_id": cell_id}, **values)
    rows: list[Row] = tx.list(hosts, cell_id=cell_id)
    for row in rows:
        tx.follow(HOSTS.kind, row)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _from_hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Invalid(f"Invalid input for field/attribute {what}: no hexadecimal digits") from None
