"""``xenith serve``: one host's XenAPI by itself, for a cloud that runs elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from xenith.core import log
from xenith.core.errors import Invalid
from xenith.core.settings import Settings, load

app = App(help="Serve one host's XenAPI by itself.")


@app.default
def serve(
    *,
    name: Annotated[str, Parameter(help="The host's name.")] = "host-1",
    listen: Annotated[str, Parameter(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:0",
    backend: Annotated[str | None, Parameter(help="auto, sim or qemu.")] = None,
    data: Annotated[str | None, Parameter(help="Where the host's records are kept.")] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error.")] = None,
) -> int:
    """Serve a host until a signal ends it; its guests run on, and are found again.

    Its password is XENITH_HOST_PASSWORD, or is made at random and kept in DATA/hosts.password.
    """
    settings = load(flags={"backend": backend, "data": data, "log_level": log_level})
    address, _, port = listen.rpartition(":")
    if not address or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"--listen {listen} is no HOST:PORT, such as 127.0.0.1:0")
    log.configure(level=settings.log_level, as_json=settings.log_json)
    directory = Path(settings.data).absolute()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(_serve(settings, directory, name=name, address=address.strip("[]"), port=int(port)))
    return 0


async def _serve(
    settings: Settings, directory: Path, *, name: str, address: str, port: int
) -> None:
    from xenith.core.world import World  # noqa: PLC0415 - --help does not pay for a host
    from xenith.dev.hosts import make_backend  # noqa: PLC0415
    from xenith.dev.keys import host_password  # noqa: PLC0415
    from xenith.dev.locks import take_lock  # noqa: PLC0415
    from xenith.toolstack.fleet import Fleet  # noqa: PLC0415

    world, stopping = World(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with contextlib.closing(take_lock(directory)):
        password = os.environ.get("XENITH_HOST_PASSWORD") or host_password(directory, world.ids)
        fleet = Fleet(world, directory / "toolstack")
        try:
            endpoint = await fleet.add_host(
                name,
                make_backend(settings, world, directory, name),
                password=password,
                listen=address,
                port=port,
            )
            await fleet.start()
            print(f"ready {endpoint.url}", flush=True)
            print(f"  take it in with: xenith host add {endpoint.url} --name {name}", flush=True)
            await stopping.wait()
        finally:
            await fleet.stop()
