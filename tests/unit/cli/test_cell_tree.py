"""The tree of cells as it is drawn."""

from __future__ import annotations

import doctest
from typing import Any

from xenith.cli import cell_tree
from xenith.cli.cell_tree import draw, link


def one_link(**fields: Any) -> dict[str, Any]:
    return {
        "parent": "api",
        "is_open": True,
        "is_alive": True,
        "refused_by_parent": {},
        "refused_by_cell": {},
        "unsent": 0,
        "dropped": 0,
        "open_intents": 0,
        **fields,
    }


def one_cell(name: str, *parents: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "parents": list(parents),
        "state": "open",
        "successor": None,
        "is_revoked": False,
        "is_dark": False,
        "silence": "",
        "hosts": 2,
        "hosts_up": 2,
        "servers": 5,
        "free": {"m1.micro": 7, "m1.tiny": 3},
        "topology": 4,
        "age_s": 0.3,
        "undecided": 0,
        "links": [one_link(parent=parent) for parent in parents],
        **fields,
    }


def found(*cells: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"region": "r", "version": 4, "cells": list(cells), "expected": [], **fields}


def test_the_examples_hold():
    assert doctest.testmod(cell_tree).failed == 0


def test_a_line_a_cell_below_its_first_parent():
    drawn = draw(found(one_cell("api"), one_cell("r1", "api"), one_cell("c1", "r1", "api")))
    assert drawn.splitlines() == [
        "CELL              STATE  HOSTS  SERVERS  AGE    LINK  INTENTS  M1.MICRO  M1.TINY",
        "api               root   2/2    5        0.3 s  -     0        7         3",
        "└─ r1             open   2/2    5        0.3 s  open  0        7         3",
        "   └─ c1 (+ api)  open   2/2    5        0.3 s  open  0        7         3",
    ]


def test_a_dark_cell_is_said_to_be_with_why_and_how_old_its_rows_are():
    dark = one_cell(
        "c1",
        "api",
        is_dark=True,
        silence="it did not answer",
        free=None,
        hosts_up=0,
        age_s=300.0,
        links=[one_link(is_alive=False, open_intents=9)],
    )
    lines = draw(found(one_cell("api"), dark)).splitlines()
    assert lines[2].split() == [
        "└─", "c1", "open,", "dark", "?/2", "5", "5", "min", "shut", "9", "-", "-"
    ]  # fmt: skip
    assert lines[-1] == "c1 is dark: it did not answer"


def test_what_is_out_of_the_ordinary_is_said_below():
    expected = [{"name": "c9", "parents": ["api"], "expires_at": "2030-01-01T00:00:00Z"}]
    late = one_cell("c1", "api", topology=2, state="draining", successor="c2")
    drawn = draw(found(one_cell("api"), late, expected=expected))
    assert "draining to c2" in drawn
    assert "c1 follows version 2 of the topology, the newest is 4" in drawn
    assert "c9 is expected below api until 2030-01-01T00:00:00Z" in drawn


def test_the_flavors_that_are_named_are_shown():
    drawn = draw(found(one_cell("api")), ["m1.tiny", "none"])
    assert drawn.splitlines()[0].endswith("M1.TINY  NONE")
    assert drawn.splitlines()[1].endswith("3        -")


def test_a_link_says_how_many_ways_are_open_and_what_was_refused_on_them():
    cell = one_cell("c1")
    assert link({**cell, "links": [one_link(), one_link(is_alive=False)]}) == "1/2 open"
    bad = one_link(refused_by_parent={"bad_signature": 2}, refused_by_cell={"x": 1}, unsent=4)
    assert link({**cell, "links": [bad]}) == "open, 3 refused, 4 unsent"


def test_a_name_cannot_steer_the_terminal():
    assert "\x1b" not in draw(found(one_cell("api\x1b[2J", is_dark=True, silence="\x1b[2J")))
