"""``xenith bench vhd`` on disks that are small: what it measures, and in which form."""

import pytest

from xenith.dev.bench import vhd

WORK = (
    "raw_to_vhd",
    "raw_to_vhd_pipe",
    "vhd_to_raw",
    "vhd_stream_to_raw",
    "flatten_of_5",
    "delta_of_0.1_percent",
    "delta_of_1_percent",
)


@pytest.mark.slow
def test_each_piece_of_work_is_measured_with_its_memory_and_beside_peers(tmp_path):
    measured = vhd.measure(size_mib=20, delta_mib=100, runs=1, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert [name for name, figures in measured.items() if isinstance(figures, dict)] == list(WORK)
    for name in WORK:
        assert measured[name]["xenith"]["s"] > 0
        assert measured[name]["memory_growth_mib"] < 16
        assert ("qemu_img" in measured[name]) == ("pipe" not in name and "stream" not in name)
    rows = vhd.rows(measured)
    assert [row["work"] for row in rows if row["by"] == "xenith"] == list(WORK)
    assert all((row["of_ours"] is None) == (row["by"] == "xenith") for row in rows)
