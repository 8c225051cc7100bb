"""Flavors: the sizes that servers come in, their extra specs, and who may use the private ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.db import GLOBAL, Flag, Json, Row, Tx
from xenith.http import Principal
from xenith.http.paging import Page

flavors = sa.Table(
    "flavors",
    GLOBAL,
    # Chosen by the admin, or a UUID.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("vcpus", sa.BigInteger, nullable=False),
    sa.Column("ram_mib", sa.BigInteger, nullable=False),
    sa.Column("root_gib", sa.BigInteger, nullable=False),
    sa.Column("ephemeral_gib", sa.BigInteger, nullable=False),
    sa.Column("swap_mib", sa.BigInteger, nullable=False),
    sa.Column("rxtx_factor", sa.Float, nullable=False),
    sa.Column("is_public", Flag, nullable=False),
    sa.Column("is_disabled", Flag, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("extra_specs", Json, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
)

flavor_access = sa.Table(
    "flavor_access",
    GLOBAL,
    sa.Column("flavor_id", sa.Text, sa.ForeignKey("flavors.id"), primary_key=True),
    sa.Column("project_id", sa.Text, primary_key=True),
)
sa.Index("flavor_access_by_project", flavor_access.c.project_id, flavor_access.c.flavor_id)

#: What stands for a column that is empty, so that it too has a place in an order.
_EMPTY: dict[str, Any] = {"description": "", "updated_at": 0.0}
#: Columns that a list may be ordered by.
SORT_COLUMNS: dict[str, Any] = {
    column.name: sa.func.coalesce(column, _EMPTY[column.name]) if column.name in _EMPTY else column
    for column in flavors.c
    if column.name != "extra_specs"
}


def disk_gib_of(flavor: dict[str, Any]) -> int:
    """Give what a flavor, as a server keeps it, claims of a host's disks.

    >>> disk_gib_of({"disk": 1, "ephemeral": 2, "swap": 1})
    4
    """
    return int(flavor["disk"] + flavor["ephemeral"] + -(-flavor["swap"] // 1024))


def find_usable_flavor(tx: Tx, flavor_ref: str, principal: Principal) -> Row | None:
    """Find a flavor that a caller's project may use, or None. Transaction function."""
    row = tx.find(flavors, id=flavor_ref)
    if row is None or row.is_public or principal.is_admin:
        return row
    if principal.project_id is None:
        return None
    found = tx.find(flavor_access, flavor_id=row.id, project_id=principal.project_id)
    return None if found is None else row


def list_flavors(
    tx: Tx,
    page: Page,
    *,
    project_id: str | None,
    is_public: bool | None,
    min_ram_mib: int = 0,
    min_disk_gib: int = 0,
) -> list[Row]:
    """List a page of flavors.

    ``is_public`` True takes the public ones and those that ``project_id`` was given, False the
    private ones, None all.

    Raises:
        Invalid: the marker names no flavor.
    """
    statement = sa.select(flavors).where(
        flavors.c.ram_mib >= min_ram_mib, flavors.c.root_gib >= min_disk_gib
    )
    if is_public is True:
        granted = sa.select(flavor_access.c.flavor_id).where(
            flavor_access.c.project_id == (project_id or "")
        )
        statement = statement.where(sa.or_(_public(True), flavors.c.id.in_(granted)))
    elif is_public is False:
        statement = statement.where(_public(False))
    return tx.all(_paged(tx, statement, page))


def _public(wanted: bool) -> Any:
    return flavors.c.is_public == sa.literal(wanted, Flag())


def _paged(tx: Tx, statement: Any, page: Page) -> Any:
    """Put a page's order and marker on a list."""
    if page.marker is not None:
        marker = tx.find(flavors, id=page.marker)
        if marker is None:
            raise Invalid(f"marker [{page.marker[:64]}] not found")
        statement = statement.where(_after(page.sort, marker))
    for name, is_down in page.sort:
        column = SORT_COLUMNS[name]
        statement = statement.order_by(column.desc() if is_down else column.asc())
    return statement.limit(page.limit)


def _after(sort: Sequence[tuple[str, bool]], marker: Row) -> Any:
    """Say what comes after a row: beyond it in one column, and equal in those before."""
    cases: list[Any] = []
    equal: list[Any] = []
    for name, is_down in sort:
        column, value = SORT_COLUMNS[name], getattr(marker, name)
        if value is None:
            value = _EMPTY[name]
        cases.append(sa.and_(*equal, column < value if is_down else column > value))
        equal.append(column == value)
    return sa.or_(*cases)


def delete_flavor(tx: Tx, flavor_id: str) -> bool:
    """Delete a flavor with its accesses; tell whether there was one. Servers keep their copy."""
    tx.delete(flavor_access, flavor_id=flavor_id)
    return tx.delete(flavors, id=flavor_id) > 0


def change_extra_specs(tx: Tx, flavor_id: str, specs: Mapping[str, str], *, now_s: float) -> None:
    """Put these extra specs in place of those there are."""
    tx.update(flavors, {"id": flavor_id}, extra_specs=dict(specs), updated_at=now_s)


def list_access(tx: Tx, flavor_id: str) -> list[str]:
    """List the projects that may use a private flavor."""
    return [row.project_id for row in tx.list(flavor_access, flavor_id=flavor_id)]
