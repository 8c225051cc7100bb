"""A lab in this process: its shape is kept, it goes on where it was, and knows all its hosts."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from xenith.compute.records.hosts import hosts
from xenith.core.errors import Conflict, Exhausted, Invalid
from xenith.core.settings import Settings
from xenith.db import Tx
from xenith.dev.lab import DEFAULT, Lab, LabShape, choose_shape

URL = "http://127.0.0.1:9"


def make(data: Path, tree: str, *, hosts_per_cell: int, without: tuple[str, ...] = ()) -> Lab:
    shape = LabShape(tree, hosts_per_cell)
    return Lab(Settings(data=str(data)), shape, site_url=URL, without=without)


def test_a_new_lab_has_the_shape_asked_for_and_keeps_it(tmp_path):
    asked = choose_shape(tmp_path, "1x2x3", 4)
    assert asked == LabShape("1x2x3", 4)
    assert choose_shape(tmp_path, None, None) == asked
    assert choose_shape(tmp_path, "1X2x3", None).hosts_per_cell == 4


def test_a_lab_that_nothing_is_said_of_is_small(tmp_path):
    assert choose_shape(tmp_path, None, None) == DEFAULT


def test_a_lab_grows_by_hosts_and_does_not_shrink(tmp_path):
    choose_shape(tmp_path, "1x2", 2)
    assert choose_shape(tmp_path, None, 3).hosts_per_cell == 3
    with pytest.raises(Conflict, match="have 3 hosts each"):
        choose_shape(tmp_path, None, 2)


def test_another_tree_in_a_labs_directory_is_refused_and_leaves_it_as_it_was(tmp_path):
    known = choose_shape(tmp_path, "1x2x3", 4)
    with pytest.raises(Conflict, match="1x2x3, not 1x2"):
        choose_shape(tmp_path, "1x2", None)
    assert choose_shape(tmp_path, None, None) == known


def test_the_directory_of_a_cloud_that_is_no_lab_is_refused(tmp_path):
    (tmp_path / "xenith.db").touch()
    with pytest.raises(Conflict, match="no lab"):
        choose_shape(tmp_path, "1x2", 1)


@pytest.mark.parametrize(("tree", "hosts_per_cell"), [("2x2", 1), ("1x", 1), ("1", 1), ("1x2", -1)])
def test_a_shape_that_is_none_is_refused_and_nothing_is_kept(tmp_path, tree, hosts_per_cell):
    with pytest.raises(Invalid):
        choose_shape(tmp_path, tree, hosts_per_cell)
    assert list(tmp_path.iterdir()) == []


def test_more_hosts_than_open_files_are_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    with pytest.raises(Exhausted, match="ulimit"):
        make(tmp_path, "1x2x2", hosts_per_cell=100)


def test_a_cell_left_out_must_be_one_of_the_labs(tmp_path):
    with pytest.raises(Invalid, match="no cell named r9"):
        make(tmp_path, "1x2", hosts_per_cell=1, without=("r9",))


@pytest.mark.slow
async def test_a_started_lab_has_a_database_for_each_cell_and_the_root_knows_every_host(tmp_path):
    lab = make(tmp_path, "1x1x2", hosts_per_cell=2)
    await lab.start()
    try:
        totals = lab.cloud.cell.node.chooser.totals()
        assert (totals.host_count, totals.hosts_up_count) == (4, 4)
        assert sorted(path.parent.name for path in tmp_path.glob("cells/*/xenith.db")) == [
            "r1",
            "r1-c1",
            "r1-c2",
        ]
        assert lab.cloud.host_count == 0, "the root has no hosts of its own"
    finally:
        await lab.stop()


@pytest.mark.slow
async def test_a_lab_started_again_is_the_same_one(tmp_path):
    def read(tx: Tx) -> dict[str, str]:
        return {row.url: row.id for row in tx.list(hosts)}

    found = []
    for _ in range(2):
        lab = make(tmp_path, "1x2", hosts_per_cell=2)
        await lab.start()
        try:
            leaves = [lab.cells[entry.id] for entry in lab.plan.leaves]
            found.append([(leaf.id, await leaf.db.read(read)) for leaf in leaves])
        finally:
            await lab.stop()
    assert found[0] == found[1]
    assert all(len(known) == 2 for _, known in found[0])


@pytest.mark.slow
async def test_a_second_process_is_refused_the_directory_and_the_first_goes_on(tmp_path):
    first, second = (make(tmp_path, "1x1", hosts_per_cell=1) for _ in range(2))
    await first.start()
    try:
        with pytest.raises(Conflict, match="already runs"):
            await second.start()
        await second.stop()
        assert first.cloud.is_healthy
    finally:
        await first.stop()


@pytest.mark.slow
async def test_a_cell_left_out_is_not_waited_for_and_is_held_to_be_dead(tmp_path):
    lab = make(tmp_path, "1x2", hosts_per_cell=1, without=("c1",))
    await lab.start()
    try:
        chooser = lab.cloud.cell.node.chooser
        dead, alive = lab.plan.leaves
        assert chooser.is_dead(dead.id)
        assert not chooser.is_dead(alive.id)
        assert chooser.totals().host_count == 1
    finally:
        await lab.stop()
