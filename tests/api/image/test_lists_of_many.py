"""Lists of many images, by any filter and page, against what a plain look at all of them finds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from xenith.core.world import World
from xenith.db import Database, open_database
from xenith.db.migrate import prepare
from xenith.http import Principal
from xenith.http.paging import Page
from xenith.image import records
from xenith.image.records import ImageFilter

pytestmark = pytest.mark.slow

COUNT = 160
NOW = 1_700_000_000.0


def caller(project_id: str, *, is_admin: bool) -> Principal:
    roles = frozenset({"admin" if is_admin else "member"})
    return Principal(
        user_id="u", user_name="u", user_domain_id="d", project_id=project_id, roles=roles
    )


def made(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "id": f"{chance.randrange(2**64):016x}-{number:04d}",
        "owner": chance.choice(["me", "me", "you", "they"]),
        "name": chance.choice(["a", "A", "b", None, f"n{number}"]),
        "status": chance.choice(["active", "active", "active", "queued"]),
        "visibility": chance.choice(["private", "private", "public", "shared", "community"]),
        "disk_format": chance.choice(["vhd", "raw", None]),
        "container_format": "bare",
        "size": chance.choice([None, 1, 5, 9]),
        "virtual_size": None,
        "checksum": None,
        "os_hash_value": None,
        "min_disk": chance.choice([0, 1]),
        "min_ram": 0,
        "protected": chance.random() < 0.2,
        "os_hidden": chance.random() < 0.1,
        "properties": {
            name: chance.choice(["x", "X", "y"]) for name in "pqr" if chance.random() < 0.5
        },
        "tags": sorted({chance.choice("stuv") for _ in range(chance.randrange(3))}),
        "created_at": NOW + chance.randrange(12),
        "updated_at": NOW + chance.randrange(12) + 0.5,
    }


def sees(wanted: ImageFilter, who: Principal, row: dict[str, Any], shares: set[Any]) -> bool:
    """Say by the rules alone whether a caller's list has an image. Source: glance, visibility."""
    own = row["owner"] == who.project_id
    shared = row["visibility"] == "shared" and (row["id"], who.project_id) in shares
    kind, asked = row["visibility"], wanted.visibility
    if asked in ("public", "community"):
        return bool(kind == asked)
    if asked in ("private", "shared"):
        return bool(kind == asked and (who.is_admin or own or (asked == "shared" and shared)))
    if who.is_admin:
        return bool(asked == "all" or kind != "community" or own)
    return bool(own or kind == "public" or shared or (asked == "all" and kind == "community"))


def matches(wanted: ImageFilter, row: dict[str, Any]) -> bool:
    size = row["size"]
    return (
        row["os_hidden"] == wanted.is_hidden
        and all(row[name] in values for name, values in wanted.columns.items())
        and all(row["properties"].get(name) == value for name, value in wanted.properties.items())
        and set(wanted.tags) <= set(row["tags"])
        and (wanted.size_min is None or (size is not None and size >= wanted.size_min))
        and (wanted.size_max is None or (size is not None and size <= wanted.size_max))
        and all(
            {
                "gt": int(row[name]) > at_s,
                "gte": int(row[name]) >= at_s,
                "lt": int(row[name]) < at_s,
                "lte": int(row[name]) <= at_s,
                "eq": int(row[name]) == at_s,
                "neq": int(row[name]) != at_s,
            }[operator]
            for name, operator, at_s in wanted.times
        )
    )


def filtered(chance: random.Random, rows: list[dict[str, Any]]) -> ImageFilter:
    some = chance.choice(rows)
    columns: dict[str, tuple[Any, ...]] = {}
    for name in ("name", "status", "disk_format", "owner", "id", "min_disk", "protected"):
        if chance.random() < 0.15 and some[name] is not None:
            columns[name] = (some[name], chance.choice(rows)[name] or some[name])
    times = []
    if chance.random() < 0.3:
        operator = chance.choice(["gt", "gte", "lt", "lte", "eq", "neq"])
        times.append((chance.choice(["created_at", "updated_at"]), operator, NOW + 5))
    return ImageFilter(
        columns=columns,
        properties={chance.choice("pqr"): "x"} if chance.random() < 0.3 else {},
        tags=(chance.choice("stuv"),) if chance.random() < 0.2 else (),
        visibility=chance.choice([None, None, "all", "public", "private", "shared", "community"]),
        size_min=5 if chance.random() < 0.15 else None,
        size_max=5 if chance.random() < 0.15 else None,
        times=tuple(times),
        is_hidden=chance.random() < 0.1,
    )


def ordered(rows: list[dict[str, Any]], page: Page) -> list[str]:
    plain = {"name": "", "size": -1, "disk_format": ""}
    for name, is_down in reversed(page.sort):
        rows = sorted(
            rows,
            key=lambda row: plain.get(name) if row[name] is None else row[name],
            reverse=is_down,
        )
    return [row["id"] for row in rows]


@pytest.mark.parametrize("few", [0, 8, 2000])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_page_has_what_a_look_at_all_images_finds(
    db: Database, monkeypatch: pytest.MonkeyPatch, few: int, seed: int
) -> None:
    monkeypatch.setattr(records, "FEW_MAX", few)
    chance = random.Random(seed)
    rows = [made(chance, number) for number in range(COUNT)]
    shares = {(row["id"], "me") for row in rows if chance.random() < 0.3}

    def fill(tx: Any) -> None:
        for row in rows:
            tx.insert(records.images, row)
            records.write_labels(tx, row["id"], row)
        times = {"created_at": NOW, "updated_at": NOW}
        for image_id, member in sorted(shares):
            share = {"image_id": image_id, "member_id": member, "status": "accepted"}
            tx.insert(records.members, share | times)

    await db.run(fill)
    for _ in range(60):
        who = caller(chance.choice(["me", "they"]), is_admin=chance.random() < 0.3)
        wanted = filtered(chance, rows)
        keys = chance.sample(["created_at", "name", "size", "disk_format"], k=chance.choice([1, 2]))
        sort = [(key, chance.random() < 0.5) for key in keys]
        page = Page(limit=chance.choice([1, 3, 20]), marker=None, sort=(*sort, ("id", sort[-1][1])))
        expected = ordered(
            [row for row in rows if matches(wanted, row) and sees(wanted, who, row, shares)], page
        )
        found: list[str] = []
        while True:
            part = await db.read(records.list_images, wanted, page, who)
            found += [row.id for row in part[: page.limit]]
            if len(part) <= page.limit or len(found) > COUNT:
                break
            page = Page(page.limit, found[-1], page.sort)
        assert found == expected, (wanted, page, who)


async def test_no_list_walks_through_all_images_but_in_its_own_order(world: World) -> None:
    """Each plan enters an index; none orders all that a wide filter finds.

    On SQLite, which chooses by the indexes alone; PostgreSQL does by what the tables hold.
    """
    db = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(db)
    who = caller("me", is_admin=False)
    page = Page(limit=25, marker=None, sort=(("created_at", True), ("id", True)))
    wide = ImageFilter(columns={"status": ("active",)}, properties={"p": "x"}, size_min=1)
    plans: list[str] = []

    def look(tx: Any) -> None:
        real = tx.all

        def explained(statement: Any, **values: Any) -> Any:
            compiled, parameters = tx._compiler.compile(statement, values)
            tx._cursor.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", parameters)
            plans.append("; ".join(str(row[-1]) for row in tx._cursor.fetchall()))
            return real(statement, **values)

        records_tx = type("Told", (), {"all": staticmethod(explained)})()
        for name in ("find", "first"):
            setattr(records_tx, name, getattr(tx, name))
        records.list_images(records_tx, wide, page, who)

    await db.run(look)
    await db.close()
    assert plans
    for plan in plans:
        assert "SCAN images" not in plan or "USING INDEX" in plan or "USING COVERING" in plan, plan
