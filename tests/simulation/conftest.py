"""Runs seeds of a simulated region for the tests beside this file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xenith.dev.simulation.report import RunReport, run_seed


@pytest.fixture(scope="session")
def survive() -> Callable[..., RunReport]:
    """Run a seed and fail with what broke, how to see it again, and what happened last."""

    def run(seed: int, *, minutes: float = 2.0, has_operator: bool = False) -> RunReport:
        report = run_seed(seed, minutes=minutes, has_operator=has_operator)
        if not report.is_sound:
            again = f"xenith simulate --seed {seed} --minutes {minutes:g}"
            again += " --operator" * has_operator
            told = [
                f"{again} breaks:",
                *report.problems,
                *report.events,
            ]
            pytest.fail("\n".join(told), pytrace=False)
        return report

    return run
