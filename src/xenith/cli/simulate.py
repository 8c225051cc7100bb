"""``xenith simulate``: a whole region on virtual time, in a storm that a seed makes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from xenith import __version__
from xenith.cli.output import Output, show

if TYPE_CHECKING:
    from xenith.dev.simulation.report import RunReport

app = App(help="Put a simulated region through a storm that a seed makes.")

#: Seconds that git may take to tell the commit.
GIT_TIMEOUT_S = 5.0
#: What of a run's counts is shown of each seed.
_SHOWN = {
    "turns": "events",
    "database commits": "commits",
    "frames published": "frames",
    "deaths": "deaths",
    "build moved": "moved_builds",
}


@app.default
def simulate(
    *,
    seed: Annotated[int, Parameter(help="What the whole run follows from.")] = 1,
    minutes: Annotated[float, Parameter(help="Virtual minutes of work and faults.")] = 3.0,
    seeds: Annotated[int, Parameter(help="Run so many seeds, from --seed on.")] = 1,
    shape: Annotated[str, Parameter(help="Cells by level: a root, 2 below it, 3 below each.")] = (
        "1x2x3"
    ),
    calm: Annotated[bool, Parameter(help="Nothing fails.", negative=())] = False,
    operator: Annotated[
        bool, Parameter(help="Cells come and go, are drained, weighed and moved.", negative=())
    ] = False,
    output: Output = "table",
) -> int:
    """Run the real code of a whole region in one process, and check what must hold.

    Messages are lost, processes die, hosts and databases go away, clocks are wrong; then all of it
    ends, and everything must settle and agree. The same seed gives the same run. Exits 1 when
    something did not hold, and tells how to see it again.
    """
    from xenith.dev.simulation.region import RegionShape  # noqa: PLC0415 - --help pays for nothing
    from xenith.dev.simulation.report import run_seed  # noqa: PLC0415

    reports = []
    for each in range(seed, seed + seeds):
        report = run_seed(
            each,
            minutes=minutes,
            shape=RegionShape(tree=shape),
            has_faults=not calm,
            has_operator=operator,
            on_progress=lambda line: None if output == "json" else print(line, flush=True),
        )
        reports.append(report)
        if not report.is_sound:
            _tell_failure(report, options=" --calm" * calm + " --operator" * operator)
    show([_row(report) for report in reports], output)
    return 0 if all(report.is_sound for report in reports) else 1


def _row(report: RunReport) -> dict[str, object]:
    counts = {name: report.counts.get(key, 0) for key, name in _SHOWN.items()}
    return {
        "seed": report.seed,
        "held": report.is_sound,
        **counts,
        "settled_s": report.settled_s,
        "virtual_s": report.virtual_s,
        "real_s": report.real_s,
        "fingerprint": report.fingerprint,
    }


def _tell_failure(report: RunReport, *, options: str) -> None:
    from xenith.dev.simulation.report import PROBLEMS_TOLD  # noqa: PLC0415

    again = f"xenith simulate --seed {report.seed} --minutes {report.minutes:g}"
    again += f" --shape {report.shape}{options}"
    lines = [
        f"seed {report.seed} broke at {report.virtual_s:.1f} s, {_version()}:",
        *(f"  {problem}" for problem in report.problems[:PROBLEMS_TOLD]),
        "what happened last:",
        *report.events,
        f"to see it again: {again}",
    ]
    print("\n".join(lines), flush=True)


def _version() -> str:
    """Tell what ran: the version, and the commit when this is a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - the user's own
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"version {__version__}"
    return f"version {__version__}, commit {found.stdout.strip()}"
