"""A join token lets one cell in, once, for a while; nothing that is kept or shown is the secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.cells import joining
from xenith.cells.joining import LIFE_S_MAX, JoinToken, join_tokens, parse
from xenith.cells.keys import CellKey
from xenith.core.clock import ManualClock
from xenith.core.errors import Forbidden, Invalid
from xenith.core.ids import CellId, Ids
from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare

ROOT = CellKey.derive(b"root").public
NEW = CellId("new-cell")
URL = "https://cloud.example:5000/cells"


@pytest.fixture
def world() -> World:
    return World(clock=ManualClock(), ids=Ids(1))


@pytest.fixture
def db(world: World) -> Any:
    database = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(database)
    return database


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.e2e])]
)
async def any_db(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Any]:
    """Give a database of each kind: what is decided in one statement is decided on both."""
    is_sqlite = request.param == "sqlite"
    url = "sqlite://" if is_sqlite else request.getfixturevalue("fresh_postgres_url")
    database = open_database(url, ids=world.ids, clock=world.clock)
    prepare(database)
    yield database
    await database.close()


async def issued(db: Any, **fields: Any) -> str:
    defaults = {"name": "c1", "parents": ["dfw"], "life_s": 60.0, "api_url": URL, "root": ROOT}
    return await db.run(lambda tx: joining.issue(tx, **{**defaults, **fields}))


async def redeem(db: Any, secret: str, *, now_s: float, cell_id: CellId = NEW) -> Any:
    return await db.run(lambda tx: joining.redeem(tx, secret, now_s=now_s, cell_id=cell_id))


def token(**fields: Any) -> JoinToken:
    return JoinToken(**{"api_url": URL, "root": ROOT, "secret": "s" * 43, "name": "c1", **fields})


async def test_a_token_tells_the_joiner_where_whom_to_believe_and_its_name(db: Any):
    read = parse(await issued(db))
    assert (read.api_url, read.root, read.name) == (URL, ROOT, "c1")


async def test_a_token_is_redeemed_once(any_db: Any, world: World):
    secret = parse(await issued(any_db)).secret
    row = await redeem(any_db, secret, now_s=world.clock.now() + 59)
    assert (row.cell_name, row.parents, row.cell_id) == ("c1", ["dfw"], NEW)
    assert row.used_at == world.clock.now() + 59
    with pytest.raises(Forbidden):
        await redeem(any_db, secret, now_s=world.clock.now(), cell_id=CellId("other"))
    assert (await any_db.read(lambda tx: tx.list(join_tokens)))[0].cell_id == NEW


async def test_every_secret_that_is_not_good_gets_the_same_answer(any_db: Any, world: World):
    now_s = world.clock.now()
    used, expired, revoked = [
        parse(await issued(any_db, name=name)).secret for name in ("used", "expired", "revoked")
    ]
    await redeem(any_db, used, now_s=now_s)
    assert await any_db.run(joining.revoke, "revoked") == 1
    answers = set()
    for secret, at_s in [
        (used, now_s),
        (expired, now_s + 60),
        (revoked, now_s),
        ("never issued", now_s),
        ("", now_s),
        ("\ud800", now_s),
    ]:
        with pytest.raises(Forbidden) as refused:
            await redeem(any_db, secret, now_s=at_s)
        answers.add((refused.value.message, repr(refused.value.fields)))
    assert len(answers) == 1


async def test_revoking_voids_what_is_unused_under_that_name_alone(any_db: Any, world: World):
    used, first, second, other = [
        parse(await issued(any_db, name=name)).secret for name in ("c1", "c1", "c1", "c2")
    ]
    await redeem(any_db, used, now_s=world.clock.now())
    assert await any_db.run(joining.revoke, "c1") == 2
    assert await any_db.run(joining.revoke, "c1") == 0
    for secret in (first, second):
        with pytest.raises(Forbidden):
            await redeem(any_db, secret, now_s=world.clock.now())
    await redeem(any_db, other, now_s=world.clock.now())
    assert len(await any_db.read(lambda tx: tx.list(join_tokens))) == 2


async def test_expired_tokens_are_forgotten_after_a_time(any_db: Any, world: World):
    await issued(any_db)
    await issued(any_db, life_s=120.0)
    now_s = world.clock.now()
    assert await any_db.run(lambda tx: joining.prune(tx, before_s=now_s + 61)) == 1
    assert await any_db.run(lambda tx: joining.prune(tx, before_s=now_s + 61)) == 0


async def test_the_secret_is_in_no_row_and_in_no_representation(db: Any):
    text = await issued(db)
    secret = parse(text).secret
    row = (await db.read(lambda tx: tx.list(join_tokens)))[0]
    shown = [
        *row._asdict().values(),
        repr(parse(text)),
        str(parse(text)),
        parse(text).__rich_repr__(),
    ]
    assert all(secret not in str(each) and text not in str(each) for each in shown)


async def test_two_tokens_have_two_secrets(db: Any):
    assert parse(await issued(db)).secret != parse(await issued(db)).secret


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "C1"},
        {"name": ""},
        {"name": "c1\n"},
        {"life_s": 0.0},
        {"life_s": -1.0},
        {"life_s": float("nan")},
        {"life_s": LIFE_S_MAX + 1},
        {"api_url": "cloud.example"},
        {"api_url": "file:///etc/passwd"},
        {"api_url": "https://"},
        {"api_url": "https://admin:hunter2@cloud.example"},
        {"api_url": "https://cloud.example/\x1b[31m"},
        {"api_url": "https://[::1"},
        {"api_url": "https://cloud.example:99999999"},
        {"api_url": "https://cloud.example/" + "x" * 512},
    ],
)
async def test_a_token_out_of_range_is_neither_issued_nor_read(db: Any, fields: dict[str, Any]):
    with pytest.raises(Invalid) as refused:
        await issued(db, **fields)
    assert "hunter2" not in refused.value.message
    assert await db.read(lambda tx: tx.list(join_tokens)) == []
    if "life_s" not in fields:
        with pytest.raises(Invalid):
            parse(joining._write(token(**fields)))


def test_white_space_around_a_pasted_token_does_no_harm():
    text = joining._write(token())
    assert parse(f"  {text}\n") == token()


def test_a_token_cut_short_or_with_any_letter_changed_is_refused():
    text = joining._write(token())
    for at in range(len(text)):
        other = "A" if text[at] != "A" else "B"
        for wrong in (text[:at], text[:at] + other + text[at + 1 :]):
            with pytest.raises(Invalid) as refused:
                parse(wrong)
            assert token().secret not in refused.value.message


@given(text=st.text(max_size=300))
def test_text_of_any_kind_is_refused(text: str):
    for wrong in (text, "xenith-join-1:" + text):
        with pytest.raises(Invalid):
            parse(wrong)


@given(said=st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_though_whole(said: bytes):
    import base64
    import hashlib

    text = base64.urlsafe_b64encode(said + hashlib.sha256(said).digest()[:4]).decode().rstrip("=")
    with pytest.raises(Invalid):
        parse("xenith-join-1:" + text)


@pytest.mark.parametrize("fields", [{"secret": "short"}, {"secret": "x" * 129}, {"root": None}])
def test_a_token_with_a_field_of_the_wrong_kind_is_refused(fields: dict[str, Any]):
    with pytest.raises(Invalid, match="another version"):
        parse(joining._write(token(**fields)))


def test_fields_of_a_later_version_pass():
    class Later(JoinToken, frozen=True, kw_only=True):
        added_later: int = 1

    later = msgspec.convert(token(), Later, from_attributes=True)
    assert parse(joining._write(later)) == token()
