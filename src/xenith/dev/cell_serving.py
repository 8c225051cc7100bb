"""The loop's life around a cell below the root: start, say ready, run until told to stop.

Where an address is given, it answers there how it is: ``/healthz`` and ``/metrics``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from xenith.core.errors import NotFound, Unauthenticated
from xenith.core.settings import Settings
from xenith.dev.cell_process import CellProcess, join, read_place
from xenith.dev.metrics import MetricsPage
from xenith.dev.serving import bind, calm_collector, quiet_server, raise_file_limit
from xenith.http import Answer, Principal, Site

#: Seconds that questions in flight have when the cell stops.
_GRACE_S = 1


def run_cell(
    settings: Settings, *, token: str, is_listening: bool, on_ready: Callable[[CellProcess], None]
) -> None:
    """Run a cell until it is told to stop by a signal; join first where it is none yet."""
    import uvloop  # noqa: PLC0415 - only a process that serves pays for it

    raise_file_limit()
    with contextlib.ExitStack() as ends:
        bound = ends.enter_context(bind(settings.listen)) if is_listening else None
        runner = ends.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_serve(settings, token, bound, on_ready=on_ready))


async def _serve(
    settings: Settings,
    token: str,
    bound: socket.socket | None,
    *,
    on_ready: Callable[[CellProcess], None],
) -> None:
    stopping = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    asked_to_stop = asyncio.create_task(stopping.wait())
    process = CellProcess(settings)
    async with _answering(process, bound):
        try:
            starting = asyncio.create_task(_start(process, token))
            # A database may be away for hours; a stop need not wait for it.
            await asyncio.wait((starting, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait((starting,))
                return
            await starting
            calm_collector()
            on_ready(process)
            await asked_to_stop
        finally:
            asked_to_stop.cancel()
            await process.stop()


async def _start(process: CellProcess, token: str) -> None:
    if token and not _is_cell(process.directory):
        await join(process.settings, token)
    await process.start()


def _is_cell(directory: Path) -> bool:
    try:
        read_place(directory)
    except NotFound:
        return False
    return True


@contextlib.asynccontextmanager
async def _answering(process: CellProcess, bound: socket.socket | None) -> AsyncIterator[None]:
    """Answer how the cell is, from before it starts until after it has stopped."""
    if bound is None:
        yield
        return
    server = quiet_server(_site(process), grace_s=_GRACE_S)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _site(process: CellProcess) -> Site:
    async def health() -> Answer:
        if not process.is_healthy:
            return Answer({"status": "starting"}, status=503)
        return Answer({"status": "ok"})

    metrics = MetricsPage(process.world, cells=process.list_cells, watch=process.watch)
    extra = (("/healthz", health), ("/metrics", metrics))
    return Site([], world=process.world, authenticator=_Nobody(), extra=extra)


class _Nobody:
    """Knows no token: there is nothing to sign in to."""

    async def authenticate(self, _token: str) -> Principal:
        """Refuse."""
        raise Unauthenticated("a cell has no API of its own")
