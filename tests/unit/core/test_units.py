"""Sizes are rounded the way that quotas and disks need."""

import pytest

from xenith.core.units import GIB, gib_up


@pytest.mark.parametrize(
    ("size_bytes", "gib"), [(0, 0), (1, 1), (GIB - 1, 1), (GIB, 1), (GIB + 1, 2), (2**60, 2**30)]
)
def test_a_part_of_a_gib_takes_a_whole_one(size_bytes, gib):
    assert gib_up(size_bytes) == gib
