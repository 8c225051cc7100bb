"""Lists of servers: filters, order and keyset pages, as one query over both halves."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.compute.states import vm_states_of
from xenith.core.errors import Invalid
from xenith.db import Row, Tx
from xenith.http.paging import Page

_JOINED = servers.outerjoin(
    instances,
    sa.and_(servers.c.id == instances.c.id, servers.c.cell_id == instances.c.cell_id),
)
_SERVER_COLUMNS = list(servers.c)
_INSTANCE_COLUMNS = [column.label("i_" + column.name) for column in instances.c]
_INSTANCE_NAMES = [column.name for column in instances.c]

#: The state as tenants see it, also before a cell has the server.
VM_STATE = sa.case(
    (instances.c.id.is_(None), sa.case((servers.c.fault.is_(None), "building"), else_="error")),
    (
        servers.c.intent_number > instances.c.applied_intent,
        sa.func.coalesce(servers.c.pending_vm_state, instances.c.vm_state),
    ),
    else_=instances.c.vm_state,
)
TASK_STATE = sa.case(
    (instances.c.id.is_(None), servers.c.pending_task_state),
    (
        servers.c.intent_number > instances.c.applied_intent,
        sa.func.coalesce(
            servers.c.pending_task_state,
            sa.case((servers.c.pending_vm_state.is_(None), instances.c.task_state)),
        ),
    ),
    else_=instances.c.task_state,
)

#: Columns that a list may be ordered by. Source: Compute API, "List Servers", sort keys.
SORT_COLUMNS: dict[str, Any] = {
    "id": servers.c.id,
    "created_at": servers.c.created_at,
    "updated_at": servers.c.updated_at,
    "name": servers.c.name,
    "hostname": servers.c.hostname,
    "project_id": servers.c.project_id,
    "user_id": servers.c.user_id,
    "image_id": servers.c.image_id,
    "flavor_id": servers.c.flavor_id,
    "key_name": sa.func.coalesce(servers.c.key_name, ""),
    "description": sa.func.coalesce(servers.c.description, ""),
    "access_ipv4": servers.c.access_ipv4,
    "access_ipv6": servers.c.access_ipv6,
    "config_drive": servers.c.config_drive,
    "launch_index": servers.c.launch_index,
    "is_locked": servers.c.is_locked,
    "vm_state": VM_STATE,
    "task_state": sa.func.coalesce(TASK_STATE, ""),
    "power_state": sa.func.coalesce(instances.c.power_state, 0),
    "host_name": sa.func.coalesce(instances.c.host_name, ""),
    "zone": sa.func.coalesce(instances.c.zone, ""),
    "launched_at": sa.func.coalesce(instances.c.launched_at, 0.0),
    "terminated_at": sa.func.coalesce(instances.c.terminated_at, 0.0),
}


class ServerFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which servers are wanted; None does not matter."""

    project_id: str | None = None
    #: None: only those that are not deleted; True: only those that are.
    deleted: bool | None = None
    with_deleted: bool = False
    changes_since_s: float | None = None
    changes_before_s: float | None = None
    #: Exact values by column name of ``servers``.
    servers: dict[str, Any] = {}
    #: Exact values by column name of ``instances``.
    instances: dict[str, Any] = {}
    statuses: tuple[str, ...] | None = None
    vm_states: tuple[str, ...] | None = None
    #: Each of these is a regular expression on the column. Source: nova matches names so.
    patterns: dict[str, str] = {}
    #: A part of an address.
    ip: str | None = None
    ip6: str | None = None
    metadata: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    tags_any: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    not_tags_any: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None


def list_servers(
    tx: Tx, wanted: ServerFilter, page: Page, marker: dict[str, Any] | None
) -> list[tuple[Row, Row | None]]:
    """List a page of servers with their instances, and one more if there is one."""
    statement = sa.select(*_SERVER_COLUMNS, *_INSTANCE_COLUMNS).select_from(_JOINED)
    statement = statement.where(*_conditions(wanted))
    if marker is not None:
        statement = statement.where(_after(page, marker))
    for name, is_down in page.sort:
        column = SORT_COLUMNS[name]
        statement = statement.order_by(column.desc() if is_down else column.asc())
    rows = tx.all(statement.limit(page.limit + 1))
    return [(row, _instance_of(row)) for row in rows]


def find_marker(tx: Tx, page: Page, wanted: ServerFilter) -> dict[str, Any] | None:
    """Give the sort values of the marker's row.

    Raises:
        Invalid: there is no such server.
    """
    if page.marker is None:
        return None
    statement = (
        sa.select(*[SORT_COLUMNS[name].label("s_" + name) for name, _ in page.sort])
        .select_from(_JOINED)
        .where(servers.c.id == page.marker)
    )
    if wanted.project_id is not None:
        statement = statement.where(servers.c.project_id == wanted.project_id)
    row = tx.first(statement)
    if row is None:
        raise Invalid(f"marker [{page.marker[:64]}] not found")
    return {name: row[at] for at, (name, _) in enumerate(page.sort)}


def _after(page: Page, marker: dict[str, Any]) -> Any:
    """Give the condition "comes after the marker", for any mix of directions."""
    alternatives = []
    for at, (name, is_down) in enumerate(page.sort):
        column = SORT_COLUMNS[name]
        equal = [SORT_COLUMNS[earlier] == marker[earlier] for earlier, _ in page.sort[:at]]
        beyond = column < marker[name] if is_down else column > marker[name]
        alternatives.append(sa.and_(*equal, beyond))
    # This follows from the rest; an index is entered by it, not by alternatives.
    name, is_down = page.sort[0]
    first = SORT_COLUMNS[name]
    bound = first <= marker[name] if is_down else first >= marker[name]
    return sa.and_(bound, sa.or_(*alternatives))


def _conditions(wanted: ServerFilter) -> list[Any]:
    conditions = _life_conditions(wanted) + _tag_conditions(wanted)
    conditions += [servers.c[name] == value for name, value in wanted.servers.items()]
    for name, value in wanted.instances.items():
        column = instances.c[name]
        conditions.append(column.is_(None) if value is None else column == value)
    if wanted.vm_states is not None:
        conditions.append(VM_STATE.in_(wanted.vm_states))
    if wanted.statuses is not None:
        conditions.append(sa.or_(sa.false(), *[_has_status(one) for one in wanted.statuses]))
    conditions += [
        servers.c[name].regexp_match(pattern) for name, pattern in wanted.patterns.items()
    ]
    conditions += [
        _has_text(servers.c.ports, f'"address":"{text}')
        for text in (wanted.ip, wanted.ip6)
        if text is not None
    ]
    for key, value in wanted.metadata.items():
        item = msgspec.json.encode({key: value}).decode()[1:-1]
        conditions.append(_has_text(servers.c.metadata, item))
    return conditions


def _life_conditions(wanted: ServerFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.project_id is not None:
        conditions.append(servers.c.project_id == wanted.project_id)
    if wanted.deleted:
        conditions.append(servers.c.deleted_at.is_not(None))
    elif not wanted.with_deleted:
        conditions.append(servers.c.deleted_at.is_(None))
    if wanted.ids is not None:
        conditions.append(servers.c.id.in_(wanted.ids))
    changed = sa.case(
        (
            sa.func.coalesce(instances.c.updated_at, 0.0) > servers.c.updated_at,
            instances.c.updated_at,
        ),
        else_=servers.c.updated_at,
    )
    if wanted.changes_since_s is not None:
        conditions.append(changed >= wanted.changes_since_s)
    if wanted.changes_before_s is not None:
        conditions.append(changed <= wanted.changes_before_s)
    return conditions


def _tag_conditions(wanted: ServerFilter) -> list[Any]:
    conditions: list[Any] = [_has_tag(tag) for tag in wanted.tags]
    if wanted.tags_any:
        conditions.append(sa.or_(*[_has_tag(tag) for tag in wanted.tags_any]))
    if wanted.not_tags:
        conditions.append(sa.not_(sa.and_(*[_has_tag(tag) for tag in wanted.not_tags])))
    conditions += [sa.not_(_has_tag(tag)) for tag in wanted.not_tags_any]
    return conditions


def _has_text(column: Any, text: str) -> Any:
    """Compare as written; SQLite's LIKE would take upper and lower case for the same."""
    return sa.func.replace(column.cast(sa.Text), text, "") != column.cast(sa.Text)


def _has_tag(tag: str) -> Any:
    return _has_text(servers.c.tags, msgspec.json.encode(tag).decode())


def _has_status(status: str) -> Any:
    alternatives = []
    task = sa.func.coalesce(TASK_STATE, "")
    for vm_state, named, excepted in vm_states_of(status):
        condition: Any = VM_STATE.op("=")(vm_state)
        if named is not None:
            condition = sa.and_(condition, task.in_(named))
        elif excepted:
            condition = sa.and_(condition, task.not_in(excepted))
        alternatives.append(condition)
    return sa.or_(sa.false(), *alternatives)


class InstancePart(msgspec.Struct, frozen=True):
    """An instance read along with its server; the same fields as a row of ``instances``."""

    id: str
    cell_id: str
    change_number: int
    extra: Any
    project_id: str
    host_id: str | None
    host_name: str | None
    zone: str | None
    vm_state: str
    task_state: str | None
    power_state: int
    launched_at: float | None
    terminated_at: float | None
    fault: Any
    applied_intent: int
    generation: int
    created_at: float
    updated_at: float
    build: str
    is_confirmed: bool
    request: Any
    placement: Any
    resize: Any


_FIELDS = InstancePart.__struct_fields__
assert tuple(_INSTANCE_NAMES) == _FIELDS, "one field for each column"
_FIRST = len(_SERVER_COLUMNS)


def _instance_of(row: Row) -> InstancePart | None:
    return None if row[_FIRST] is None else InstancePart(*row[_FIRST:])
