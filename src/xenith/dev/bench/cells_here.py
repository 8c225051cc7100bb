"""A lab in this process, for what is measured from inside: commits of rows, deaths of cells."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from xenith.core import log
from xenith.core.settings import Settings
from xenith.dev.lab import Lab, LabShape
from xenith.dev.serving import raise_file_limit


@contextlib.asynccontextmanager
async def lab_here(tree: str, *, hosts_per_cell: int) -> AsyncIterator[Lab]:
    """Run a lab whose API is not served, and stop it after."""
    with tempfile.TemporaryDirectory(prefix="xenith-bench-") as place:
        settings = Settings(data=str(Path(place)))
        lab = Lab(settings, LabShape(tree, hosts_per_cell), site_url="http://127.0.0.1:9")
        try:
            await lab.start()
            yield lab
        finally:
            await lab.stop()


def run(work: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    """Run a measurement on the loop that servers use, without the log on the screen."""
    import uvloop  # noqa: PLC0415 - this bench alone

    log.configure(level="error", as_json=False)
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())
