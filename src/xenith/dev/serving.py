"""One port, and the loop's life around a cloud: bind, start, say ready, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections.abc import Callable

import uvicorn

from xenith.core.errors import Invalid, Unavailable
from xenith.core.settings import Settings
from xenith.dev.cloud import Cloud
from xenith.http import Site

#: Seconds that requests in flight have when the cloud stops.
GRACE_S = 5
#: Objects made and not freed between two rounds of the collector over the youngest.
COLLECT_EVERY = 20_000
#: Connections that wait to be accepted.
BACKLOG = 2048


def bind(listen: str) -> socket.socket:
    """Bind the address of the API.

    Raises:
        Invalid: it is no ``HOST:PORT``.
        Unavailable: the port is taken or not allowed.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"--listen {listen} is no HOST:PORT, such as 127.0.0.1:5000")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"{listen} cannot be had: {error.strerror}; choose another with --listen"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Give the address of a bound socket as clients write it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit() -> None:
    """Take all the open files that the machine allows: each host is a few sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(settings: Settings, *, on_ready: Callable[[Cloud], None]) -> None:
    """Run a cloud until it is told to stop by a signal."""
    import uvloop  # noqa: PLC0415 - only a process that serves pays for it

    raise_file_limit()
    bound = bind(settings.listen)
    with contextlib.closing(bound), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, bound, on_ready=on_ready))


def calm_collector() -> None:
    """Leave what a started cloud consists of out of the garbage collector's rounds.

    Requests and builds free nearly all they make by themselves; looking through the whole heap for
    cycles every 700 objects cost a quarter of a build here (4.7 ms of processor against 3.6).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 50)


async def serve(
    settings: Settings,
    bound: socket.socket,
    *,
    on_ready: Callable[[Cloud], None],
    until: asyncio.Event | None = None,
) -> None:
    """Start a cloud, serve it on a bound socket, and stop it in order."""
    stopping = until or asyncio.Event()
    loop = asyncio.get_running_loop()
    if until is None:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stopping.set)
    asked_to_stop = asyncio.ensure_future(stopping.wait())
    cloud = Cloud(settings, site_url=url_of(bound))
    try:
        starting = asyncio.create_task(cloud.start())
        # A database may be away for hours; a stop need not wait for it.
        await asyncio.wait((starting, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            return
        await starting
        server = quiet_server(cloud.site, grace_s=GRACE_S)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.001)
        calm_collector()
        on_ready(cloud)
        await asyncio.wait((serving, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        asked_to_stop.cancel()
        await cloud.stop()


def quiet_server(site: Site, *, grace_s: int) -> uvicorn.Server:
    """Make a server of a site that leaves signals and logs to us."""
    return _Server(
        uvicorn.Config(
            site,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            backlog=BACKLOG,
            timeout_graceful_shutdown=grace_s,
            # A proxy's word is taken in `Site.site_url`, not for the client's address.
            proxy_headers=False,
        )
    )


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own; ``serve`` has them."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        """Leave signals to the owner of the loop."""
        yield
