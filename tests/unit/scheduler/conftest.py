"""What the scheduler's tests ask for and choose among."""

import pytest

from xenith.core.ids import Ids
from xenith.scheduler.hosts import Host, HostTable
from xenith.scheduler.request import PlacementRequest


def make_host(number=1, **fields):
    defaults = {"ram_mib": 4096, "vcpus": 4, "disk_gib": 100}
    return Host(id=f"h{number}", name=f"host-{number}", **{**defaults, **fields})


def make_request(instance_id="i", **fields):
    defaults = {"project_id": "p", "ram_mib": 512, "vcpus": 1, "disk_gib": 1}
    return PlacementRequest(instance_id=instance_id, **{**defaults, **fields})


def make_table(*hosts):
    table = HostTable()
    for host in hosts:
        table.add(host)
    return table


@pytest.fixture
def host():
    return make_host


@pytest.fixture
def ask():
    return make_request


@pytest.fixture
def table_of():
    return make_table


@pytest.fixture
def ids():
    return Ids(seed=7)
