"""A cell waits for its PostgreSQL, and for nothing that will not come by waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid, Unavailable
from xenith.core.ids import Ids
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.db import open_database
from xenith.dev import rows


async def test_a_server_that_is_away_is_waited_for_and_said_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = ManualClock()
    found = open_database("sqlite://")
    tries: list[str] = []
    gone = asyncio.Event()

    def connect(url: str, *_rest: object) -> object:
        tries.append(url)
        if len(tries) < 5:
            raise Unavailable("PostgreSQL does not answer: OperationalError")
        return found

    async def sleep(delay_s: float) -> None:
        assert delay_s <= rows.RETRY_MAX_S
        gone.set()

    monkeypatch.setattr(rows, "_open", connect)
    monkeypatch.setattr(clock, "sleep", sleep)
    settings = Settings(database="postgresql://me:secret@127.0.0.1:1/x")
    assert await rows.open_rows(settings, World(clock, Ids(1)), tmp_path) is found
    assert gone.is_set()
    assert len(tries) == 5
    said = capsys.readouterr().err
    assert said.count("database away") == 1
    assert said.count("database is back") == 1
    assert "secret" not in said
    await found.close()


async def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path):
    (tmp_path / "xenith.db").mkdir()
    with pytest.raises(Unavailable):
        await rows.open_rows(Settings(), World(ManualClock(), Ids(1)), tmp_path)


async def test_an_address_that_is_none_is_an_error_at_once_and_is_not_shown(tmp_path: Path):
    settings = Settings(database="postgresql://me:secret@127.0.0.1/x?nonsense=1")
    with pytest.raises(Invalid) as raised:
        await rows.open_rows(settings, World(ManualClock(), Ids(1)), tmp_path)
    assert "secret" not in str(raised.value)
