"""``xenith bench vhd`` on disks of a few MiB: what it tells, and that it cleans up."""

from __future__ import annotations

import subprocess

import pytest

from xenith.dev.bench import vhd

WORK = {"raw_to_vhd", "vhd_to_raw", "flatten_of_5", "delta_of_0.1_percent", "delta_of_1_percent"}


@pytest.mark.slow
def test_every_piece_of_work_is_measured_beside_its_peers(tmp_path):
    measured = vhd.measure(size_mib=20, delta_mib=64, runs=1, directory=tmp_path)
    found = {name: one for name, one in measured.items() if isinstance(one, dict)}
    assert found.keys() >= WORK
    for name in WORK:
        assert 0 <= found[name]["memory_growth_mib"] < 64
        for by in ("xenith", "qemu_img", "cp"):
            assert found[name][by]["s"] > 0
            assert found[name][by]["mib_per_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_peers_peak_is_its_own_and_not_that_of_the_process_it_was_copied_from():
    hog = "import time; kept = b'1' * (64 << 20); time.sleep(0.1)"
    seconds, cpu_s, peak_mib = vhd._run(["python3", "-c", hog])
    assert 64 < peak_mib < 100
    assert cpu_s > 0
    assert seconds >= 0.1
    assert vhd._run(["sleep", "0.1"])[2] < 8


def test_a_peer_that_fails_is_no_figure():
    with pytest.raises(subprocess.CalledProcessError):
        vhd._run(["false"])
