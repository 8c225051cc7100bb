"""Disks: raw and VHD into each other, a chain of five flattened, deltas; beside qemu-img and cp.

Each figure is the best of some runs, ours and the peers' by turns: on a shared machine others
only ever add time. Sources are read once before, so that all find them in memory; nobody waits
for a disk at the end. What we do is done in a new process each time, so that its memory is its own.
qemu-img reads no differencing VHDs: it gets chains of the same disks as qcow2.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from xenith.core.units import MIB
from xenith.dev.bench import vhd_disks as disks
from xenith.dev.bench import vhd_work as work

#: What changes between two snapshots of the large disk, in thousandths.
CHANGES_PER_MILLE = (1, 10)
#: How often a peer's memory is looked at: its peak as the system tells it when it has ended would
#: be that of our own process, of which it was a copy when it began.
_LOOK_MS = 10


def measure(*, size_mib: int, delta_mib: int, runs: int, directory: Path | None) -> dict[str, Any]:
    """Make disks in a directory of their own and move them about."""
    with tempfile.TemporaryDirectory(prefix="xenith-bench-", dir=directory) as made:
        place = Path(made)
        return {
            "bench": "vhd",
            "size_mib": size_mib,
            "delta_mib": delta_mib,
            "runs": runs,
            **_plain(place, size_mib, runs),
            "flatten_of_5": _flatten(place, size_mib, runs),
            **{
                f"delta_of_{per_mille / 10:g}_percent": _delta(place, delta_mib, per_mille, runs)
                for per_mille in CHANGES_PER_MILLE
            },
        }


def rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay the figures out for people: a row for each piece of work and each who did it."""
    return [
        {
            "work": work,
            "data_mib": figures["data_mib"],
            "by": by,
            "s": did["s"],
            "cpu_s": did["cpu_s"],
            "mib_per_s": did["mib_per_s"],
            "of_ours": did.get("of_xenith_s"),
            "of_our_cpu": did.get("of_xenith_cpu_s"),
            "grew_mib": figures["memory_growth_mib"] if by == "xenith" else None,
            "peak_mib": figures["memory_peak_mib"] if by == "xenith" else None,
        }
        for work, figures in measured.items()
        if isinstance(figures, dict)
        for by, did in figures.items()
        if isinstance(did, dict)
    ]


def _plain(place: Path, size_mib: int, runs: int) -> dict[str, Any]:
    raw, vhd, out = place / "disk.raw", place / "disk.vhd", place / "out"
    data_bytes = disks.make_raw(raw, size_mib)
    work.raw_to_vhd(raw, vhd)
    convert = _convert("-f", "raw", "-O", "vpc", "-o", "force_size=on", raw, out)
    back = _convert("-f", "vpc", "-O", "raw", vhd, out)
    figures = {
        "raw_to_vhd": _compare(
            out,
            data_bytes,
            runs,
            ours=(work.raw_to_vhd, raw, out),
            qemu_img=convert,
            cp=["cp", raw, out],
        ),
        "raw_to_vhd_pipe": _compare(out, data_bytes, runs, ours=(work.raw_to_pipe, raw)),
        "vhd_to_raw": _compare(
            out,
            data_bytes,
            runs,
            ours=(work.vhd_to_raw, vhd, out),
            qemu_img=back,
            cp=["cp", vhd, out],
        ),
        "vhd_stream_to_raw": _compare(
            out, data_bytes, runs, ours=(work.vhd_stream_to_raw, vhd, out)
        ),
    }
    raw.unlink()
    vhd.unlink()
    return figures


def _flatten(place: Path, size_mib: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as made:
        chain, out = Path(made), place / "out"
        data_bytes, leaf, peer = disks.make_chain(chain, size_mib, links=5)
        work.flatten(chain, leaf, chain / "flat.vhd")
        convert = _convert("-O", "vpc", "-o", "force_size=on", chain / peer, out)
        return _compare(
            out,
            data_bytes,
            runs,
            ours=(work.flatten, chain, leaf, out),
            qemu_img=convert,
            cp=["cp", chain / "flat.vhd", out],
        )


def _delta(place: Path, size_mib: int, per_mille: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as made:
        chain, out = Path(made), place / "out"
        changed_bytes, leaf, base, peers = disks.make_pair(chain, size_mib, per_mille)
        peer_leaf, peer_base = (chain / name for name in peers)
        work.delta(chain, leaf, base, chain / "delta.vhd")
        convert = _convert("-O", "qcow2", "-B", peer_base, "-F", "qcow2", peer_leaf, out)
        return _compare(
            out,
            changed_bytes,
            runs,
            ours=(work.delta, chain, leaf, base, out),
            qemu_img=convert,
            cp=["cp", chain / "delta.vhd", out],
        )


def _compare(
    out: Path,
    data_bytes: int,
    runs: int,
    *,
    ours: tuple[Callable[..., None], *tuple[Any, ...]],
    **peers: Sequence[str | Path],
) -> dict[str, Any]:
    peaks_mib = dict[str, float]()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("xenith", *peers)}
    growth_mib = peak_mib = 0.0
    for _ in range(runs):
        seconds, cpu_s, before_mib, most_mib = _in_a_process(out, *ours)
        times["xenith"].append((seconds, cpu_s))
        growth_mib, peak_mib = max(growth_mib, most_mib - before_mib), max(peak_mib, most_mib)
        for name, command in peers.items():
            out.unlink(missing_ok=True)
            seconds, cpu_s, peers_mib = _run(command)
            times[name].append((seconds, cpu_s))
            peaks_mib[name] = max(peaks_mib.get(name, 0.0), peers_mib)
    out.unlink(missing_ok=True)
    best = {name: [min(one) for one in zip(*each, strict=True)] for name, each in times.items()}
    ours_s, ours_cpu_s = best["xenith"]
    figures: dict[str, Any] = {
        "data_mib": round(data_bytes / MIB, 1),
        "memory_growth_mib": round(growth_mib, 1),
        "memory_peak_mib": round(peak_mib, 1),
    }
    for name, (seconds, cpu_s) in best.items():
        figures[name] = {
            "s": round(seconds, 4),
            "cpu_s": round(cpu_s, 4),
            "mib_per_s": round(data_bytes / MIB / seconds, 1),
        }
    for name in peers:
        figures[name]["memory_peak_mib"] = round(peaks_mib[name], 1)
        figures[name]["of_xenith_s"] = round(best[name][0] / ours_s, 2)
        figures[name]["of_xenith_cpu_s"] = round(best[name][1] / ours_cpu_s, 2)
    return figures


def _convert(*arguments: str | Path) -> list[str | Path]:
    return ["qemu-img", "convert", *arguments]


def _run(command: Sequence[str | Path]) -> tuple[float, float, float]:
    """Run a peer: give seconds, its processor's seconds, and MiB at the most."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process, peak_mib = subprocess.Popen(command), 0.0  # noqa: S603 - lists of our own, no shell
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        while not poll.poll(_LOOK_MS):
            peak_mib = max(peak_mib, _memory_mib("VmHWM", process.pid))
        code = process.wait()
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        os.close(ended)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak_mib


def _in_a_process(
    out: Path, function: Callable[..., None], *arguments: Any
) -> tuple[float, float, float, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_watched, out, function, arguments).result()


def _watched(
    out: Path, function: Callable[..., None], arguments: tuple[Any, ...]
) -> tuple[float, float, float, float]:
    """Run in the new process: give seconds, its processor's seconds, MiB before and at the most."""
    before = _memory_mib("VmRSS")
    # As for the peers, at the last moment: a virtual machine may give freed memory back to its
    # host while a process starts, and getting it again is not a part of the work.
    out.unlink(missing_ok=True)
    # The peak of importing is not that of the work.
    Path("/proc/self/clear_refs").write_text("5")
    began, cpu_began = time.monotonic(), time.process_time()
    function(*arguments)
    seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    return seconds, cpu_s, before, _memory_mib("VmHWM")


def _memory_mib(name: str, process_id: int | None = None) -> float:
    """Read a figure of a process, our own if none is named; 0 of one that has just ended."""
    status = Path(f"/proc/{process_id or os.getpid()}/status").read_text()
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    assert process_id, f"the system tells no {name}"
    return 0.0
