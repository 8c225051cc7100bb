"""The loop's life around a lab: bind its port, start it, say ready, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Collection

import uvicorn

from xenith.core.settings import Settings
from xenith.dev.lab import Lab, LabShape
from xenith.dev.serving import BACKLOG, GRACE_S, bind, calm_collector, raise_file_limit, url_of


def run_lab(
    settings: Settings,
    shape: LabShape,
    *,
    without: Collection[str] = (),
    on_ready: Callable[[Lab], None],
) -> None:
    """Run a lab until it is told to stop by a signal."""
    import uvloop  # noqa: PLC0415 - only a process that serves pays for it

    raise_file_limit()
    bound = bind(settings.listen)
    with contextlib.closing(bound), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, shape, bound, without=without, on_ready=on_ready))


async def _serve(
    settings: Settings,
    shape: LabShape,
    bound: socket.socket,
    *,
    without: Collection[str],
    on_ready: Callable[[Lab], None],
) -> None:
    stopping = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    lab = Lab(settings, shape, site_url=url_of(bound), without=without)
    # Nearly all that a start makes stays, so there is nothing to collect until it is over.
    gc.disable()
    try:
        starting = asyncio.create_task(lab.start())
        asked_to_stop = asyncio.create_task(stopping.wait())
        # A large region takes many seconds; Ctrl-C need not wait for them.
        await asyncio.wait((starting, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            return
        await starting
        server = uvicorn.Server(
            uvicorn.Config(
                lab.cloud.site,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=GRACE_S,
                proxy_headers=False,
            )
        )
        # From here on uvicorn has the signals, and hands on to ours what it was told.
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.001)
        calm_collector()
        gc.enable()
        on_ready(lab)
        await asyncio.wait((serving, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        await lab.stop()
