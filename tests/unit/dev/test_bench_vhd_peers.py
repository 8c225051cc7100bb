"""The peers of ``xenith bench vhd``: their peak memory is their own, and none fails unseen."""

import subprocess
import sys

import pytest

from xenith.dev.bench import vhd, vhd_work


@pytest.mark.slow
def test_a_peers_peak_is_not_that_of_the_process_it_was_copied_from():
    hog = "import time; kept = b'1' * (64 << 20); time.sleep(0.1)"
    seconds, cpu_s, peak_mib = vhd._run([sys.executable, "-c", hog])
    assert 64 < peak_mib < 128
    assert cpu_s > 0
    assert seconds >= 0.1
    assert vhd._run(["sleep", "0.1"])[2] < 8


@pytest.mark.slow
def test_the_peak_of_each_peer_is_told(tmp_path):
    raw, out = tmp_path / "disk.raw", tmp_path / "out"
    raw.write_bytes(bytes(range(256)) * 8192)
    figures = vhd._compare(
        out,
        raw.stat().st_size,
        2,
        ours=(vhd_work.raw_to_vhd, raw, out),
        hog=[sys.executable, "-c", "import time; kept = b'1' * (64 << 20); time.sleep(0.1)"],
        sleep=["sleep", "0.1"],
    )
    assert figures["hog"]["memory_peak_mib"] > 64 > figures["sleep"]["memory_peak_mib"] > 0
    assert not out.exists()


def test_a_peer_that_fails_is_no_figure():
    with pytest.raises(subprocess.CalledProcessError):
        vhd._run(["false"])
