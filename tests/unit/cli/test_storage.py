"""Chains are drawn as they lie, and what their names hold stays on the page."""

from __future__ import annotations

import json

import pytest

from xenith.cli import run, storage
from xenith.cli.storage import draw, forecast
from xenith.core.errors import Unavailable


def disk(uuid, parent="", **fields):
    plain = {
        "uuid": uuid,
        "name": uuid,
        "kind": "other",
        "of": "",
        "size": 2**30,
        "used": 2**20,
        "parent": parent,
        "depth": 1,
        "is_hidden": False,
        "snapshot_of": "",
        "snapshot_time": "",
        "quarantined_at": None,
    }
    return plain | fields


def host(*disks, error=""):
    repository = {
        "uuid": "sr",
        "name": "Local",
        "type": "ext",
        "size": 2**40,
        "used": 2**30,
        "debt": 2**21,
        "disks": list(disks),
    }
    return {"host": "h1", "error": error, "repositories": [repository]}


def test_disks_are_drawn_under_what_they_stand_on():
    drawn = draw(
        host(
            disk("base", kind="base", is_hidden=True),
            disk("root", "base", kind="root", of="server", depth=2),
            disk("kept", "base", kind="snapshot", of="server", depth=2),
            disk("alone"),
        )
    )
    assert list(drawn) == [
        "host h1",
        "  Local (ext) sr  1.0 GiB of 1024.0 GiB  debt 2.0 MiB",
        "    ├─ base base, 1.0 MiB of 1.0 GiB, hidden",
        "    │  ├─ root root of server, 1.0 MiB of 1.0 GiB, depth 2, 28 snapshots to the limit",
        "    │  └─ kept snapshot of server, 1.0 MiB of 1.0 GiB, depth 2, 28 snapshots to the limit",
        "    └─ alone alone, 1.0 MiB of 1.0 GiB, depth 1",
    ]


def test_the_chains_of_one_server_are_drawn_without_the_others():
    drawn = "\n".join(
        draw(
            host(
                disk("base", kind="base", is_hidden=True),
                disk("root", "base", kind="root", of="server", depth=2),
                disk("other", "base", kind="root", of="another", depth=2),
            ),
            only="server",
        )
    )
    assert "base base" in drawn
    assert "root of server" in drawn
    assert "another" not in drawn


def test_a_name_cannot_move_the_cursor_and_a_silent_host_says_why():
    drawn = "\n".join(draw(host(disk("d", name="x\x1b[2J\nroot"), error="it is\x07 away")))
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert "x\\x1b[2J\\nroot" in drawn
    assert "does not answer" in drawn


def test_a_chain_without_end_or_in_a_circle_is_drawn():
    long = [disk("0"), *(disk(str(n), str(n - 1), depth=n + 1) for n in range(1, 3000))]
    assert len(list(draw(host(*long)))) == 3002
    assert len(list(draw(host(disk("a", "b"), disk("b", "a"))))) == 2


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([], "25 snapshots to the limit"),
        (["20260101T00:00:00Z"], "25 snapshots to the limit"),
        (["20260101T00:00:00Z", "20260101T00:00:00Z"], "25 snapshots to the limit"),
        (["what?", "20260101T00:00:00Z"], "25 snapshots to the limit"),
        (
            ["20260102T00:00:00Z", "20260101T00:00:00Z", "20260103T00:00:00Z"],
            "25 snapshots to the limit, reached 2026-01-28 00:00 if none is deleted",
        ),
    ],
)
def test_the_limit_is_foretold_at_the_rate_of_the_snapshots_that_there_are(times, told):
    snapshots = [disk(f"s{n}", snapshot_of="d", snapshot_time=time) for n, time in enumerate(times)]
    assert forecast(disk("d", depth=5), snapshots) == told


class OneRefuses:
    """A cloud of two hosts, of which the first refuses to have its chains made shorter."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def get(self, _path):
        told = [host() | {"host": name, "id": f"id-{name}"} for name in ("h1", "h2")]
        return {"hosts": told}

    async def post(self, _path, body):
        if body["host"] == "id-h1":
            raise Unavailable("a disk is\x1b[2J damaged")
        amounts = {"disks": 2, "deepest": 1, "used": 0, "debt": 0}
        return {"before": amounts, "after": amounts, "is_done": True}


def test_a_repository_that_refuses_does_not_keep_the_others_from_it(monkeypatch, capsys):
    monkeypatch.setattr(storage, "_client", lambda _data: OneRefuses())
    assert run(["storage", "coalesce", "-o", "json"]) == 7
    said = capsys.readouterr()
    assert [row["host"] for row in json.loads(said.out)] == ["h2"]
    assert said.err == "h1, Local: a disk is\\x1b[2J damaged\n"
