from __future__ import annotations

from types import SimpleNamespace

import pytest

from xenith.compute import projection
from xenith.compute.projection import apply_change


class Tx:
    """A transaction that knows one server."""

    def __init__(self, server):
        self.server = server

    def find(self, _table, *, id):  # noqa: A002 - the column's name
        return self.server if self.server.id == id else None


class Networks:
    """Notes the servers whose ports are bound."""

    def __init__(self):
        self.bound = []

    def bind_ports(self, _tx, *, instance_id, host):
        self.bound.append((instance_id, host))


def follow(vm_state, *, cell="c1", host="h1"):
    networks = Networks()
    server = SimpleNamespace(
        id="s", cell_id="c1", deleted_at=None, resize=None, pending_task_state=None
    )
    instance = SimpleNamespace(id="s", cell_id=cell, vm_state=vm_state, host_name=host)
    apply_change(Tx(server), networks, instance)
    return networks.bound


@pytest.mark.parametrize("vm_state", sorted(projection._HAVING_VM))
def test_ports_are_up_whatever_a_server_is_when_its_cell_first_tells_that_it_ran(vm_state):
    assert follow(vm_state) == [("s", "h1")]


@pytest.mark.parametrize("vm_state", ["building", "error"])
def test_ports_stay_down_while_no_vm_was_started(vm_state):
    assert follow(vm_state) == []


def test_a_cell_has_no_say_about_the_ports_of_another_cells_server():
    assert follow("stopped", cell="c2") == []
