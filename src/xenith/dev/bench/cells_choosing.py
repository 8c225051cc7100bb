"""The choice of a cell among many, by the chooser alone, with deltas arriving between choices."""

from __future__ import annotations

import random
import time
from typing import Any

import msgspec

from xenith.cells.capacity import CapacityClass, ClassKey, Digest, delta
from xenith.cells.choosing import CellRules, Choice, Chooser, Wanted
from xenith.core.world import World
from xenith.dev.bench.process import percentiles_ms

#: Memory, processors and disk of the flavors asked for: MiB, count, GiB.
FLAVORS = ((512, 1, 1), (2048, 1, 40), (4096, 2, 80), (8192, 4, 160), (15360, 6, 620))
#: Kinds of free room that a cell of a hundred hosts tells of, in all its zones.
BINS_PER_ZONE, ZONES = 10, 3
#: Each cell tells of changes once a second; at 300 builds a second, 500 cells make about two.
DELTAS_PER_CHOICE = 2
#: Builds in flight, with room reserved for them.
IN_FLIGHT = 300


def measure(*, cells: int, choices: int, seed: int = 1) -> dict[str, Any]:
    """Choose again and again, and give the times of a choice and of a delta."""
    chance = random.Random(seed)  # noqa: S311 - a bench that is the same each time
    chooser = Chooser(World())
    digests = [_digest(chance, f"cell-{number}") for number in range(cells)]
    for digest in digests:
        chooser.set_rules(digest.cell_id, CellRules(name=digest.cell_id))
        chooser.hear(digest)
    chosen: list[float] = []
    heard: list[float] = []
    reserved: list[str] = []
    for _ in range(choices):
        wanted = _wanted(chance)
        began = time.perf_counter()
        found = chooser.choose(wanted)
        chosen.append(time.perf_counter() - began)
        assert isinstance(found, Choice), "there is room for all"
        reserved.append(found.reservation_id)
        if len(reserved) > IN_FLIGHT:
            chooser.refused(reserved.pop(0))
        for _ in range(DELTAS_PER_CHOICE):
            at = chance.randrange(cells)
            newer = _changed(chance, digests[at])
            change = delta(digests[at], newer)
            digests[at] = newer
            began = time.perf_counter()
            chooser.hear_delta(change)
            heard.append(time.perf_counter() - began)
    return {
        "cells": cells,
        "choices": choices,
        "deltas_per_choice": DELTAS_PER_CHOICE,
        "choose": percentiles_ms(chosen),
        "hear_delta": percentiles_ms(heard),
    }


def _wanted(chance: random.Random) -> Wanted:
    ram_mib, vcpus, disk_gib = chance.choice(FLAVORS)
    zone = chance.choice((None, "zone-0", "zone-1"))
    return Wanted(
        ram_mib=ram_mib,
        vcpus=vcpus,
        disk_gib=disk_gib,
        project_id=f"project-{chance.randrange(50)}",
        zone=zone,
    )


def _digest(chance: random.Random, cell_id: str) -> Digest:
    classes = tuple(
        CapacityClass(
            ClassKey(zone=f"zone-{zone}"),
            tuple(sorted(_bin(chance) for _ in range(BINS_PER_ZONE))),
        )
        for zone in range(ZONES)
    )
    return Digest(cell_id=cell_id, session="bench", sequence=1, classes=classes)


def _bin(chance: random.Random) -> tuple[int, int, int, int]:
    return (
        chance.randrange(40, 256) * 512,
        chance.randrange(8, 64),
        chance.randrange(700, 2000),
        chance.randrange(1, 9),
    )


def _changed(chance: random.Random, digest: Digest) -> Digest:
    """Have a build or two change what one kind of host has free."""
    classes = list(digest.classes)
    at = chance.randrange(len(classes))
    bins = list(classes[at].bins)
    bins[chance.randrange(len(bins))] = _bin(chance)
    classes[at] = CapacityClass(classes[at].key, tuple(sorted(bins)))
    return msgspec.structs.replace(digest, sequence=digest.sequence + 1, classes=tuple(classes))
