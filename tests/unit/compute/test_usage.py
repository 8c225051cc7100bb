"""Hours of one server within a period."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xenith.compute.operations.usage import by_project, usage_of

HOUR = 3600.0


def row(launched, terminated=None, project="p"):
    flavor = {"original_name": "f", "vcpus": 2, "ram": 1024, "disk": 10, "ephemeral": 5}
    return SimpleNamespace(
        id="s",
        project_id=project,
        name="n",
        flavor=flavor,
        vm_state="active",
        launched_at=launched,
        terminated_at=terminated,
    )


@pytest.mark.parametrize(
    ("launched", "terminated", "hours"),
    [
        (0.0, None, 2.0),
        (0.0, 12 * HOUR, 2.0),
        (11 * HOUR, None, 1.0),
        (11 * HOUR, 11.5 * HOUR, 0.5),
        (0.0, 10.5 * HOUR, 0.5),
        (0.0, 9 * HOUR, 0.0),
    ],
)
def test_hours_are_those_of_the_overlap(launched, terminated, hours):
    usage = usage_of(row(launched, terminated), 10 * HOUR, 12 * HOUR, now_s=20 * HOUR)
    assert usage.hours == hours


def test_a_project_adds_up_its_servers_by_size():
    rows = [row(0.0, project="a"), row(1 * HOUR, project="a"), row(0.0, project="b")]
    first, second = by_project(usage_of(r, 0.0, 2 * HOUR, now_s=2 * HOUR) for r in rows)
    assert (first.project_id, first.hours, second.hours) == ("a", 3.0, 2.0)
    assert first.hours_of("vcpus") == 6.0
    assert first.hours_of("disk_gib") == 45.0
