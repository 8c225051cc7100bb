"""``xenith cell run``: a cell below the root in the foreground, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from xenith.core import log
from xenith.core.errors import Invalid
from xenith.core.settings import Settings, load


def run(
    *,
    join: Annotated[str, Parameter(help="The token of `xenith cell add`; the first time.")] = "",
    config: Annotated[Path | None, Parameter(help="A xenith.toml with settings.")] = None,
    data: Annotated[str | None, Parameter(help="Where everything is kept.")] = None,
    role: Annotated[str | None, Parameter(help="leaf (with hosts) or router; leaf.")] = None,
    hosts: Annotated[int | None, Parameter(help="Hosts that a leaf runs itself.")] = None,
    backend: Annotated[str | None, Parameter(help="auto, sim or qemu.")] = None,
    zone: Annotated[str | None, Parameter(help="The zone of these hosts.")] = None,
    database: Annotated[str | None, Parameter(help="postgresql://… in place of SQLite.")] = None,
    broker: Annotated[str | None, Parameter(help="amqps://USER@HOST:PORT of its RabbitMQ.")] = None,
    broker_ca: Annotated[str | None, Parameter(help="The file of its certificate.")] = None,
    broker_admin: Annotated[str | None, Parameter(help="https://HOST:PORT, to manage it.")] = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT of /healthz and /metrics.")] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error.")] = None,
) -> int:
    """Run a cell below the root; with a token, join first. Ctrl-C stops it, its servers run on.

    Once joined, it starts from its directory alone, whoever is away. The broker's password is
    XENITH_BROKER_PASSWORD.
    """
    flags = {
        "data": data,
        "role": role,
        "hosts": hosts,
        "backend": backend,
        "zone": zone,
        "database": database,
        "broker": broker,
        "broker_ca": broker_ca,
        "broker_admin": broker_admin,
        "listen": listen,
        "log_level": log_level,
    }
    if config is None and Path("xenith.toml").exists():
        config = Path("xenith.toml")
    settings = load(config, flags=flags)
    if settings.role == "root":
        raise Invalid("a root runs by `xenith up --role root`")
    # The default is where a cloud has its API; a cell has none, and listens only when told to.
    is_listening = listen is not None or settings.listen != Settings().listen
    _run(settings, token=join, is_listening=is_listening)
    return 0


def _run(settings: Settings, *, token: str, is_listening: bool) -> None:
    from xenith.dev.cell_process import CellProcess  # noqa: PLC0415 - --help does not pay for it
    from xenith.dev.cell_serving import run_cell  # noqa: PLC0415

    log.configure(level=settings.log_level, as_json=settings.log_json)

    def ready(process: CellProcess) -> None:
        print(f"ready {process.name} {process.path}", flush=True)

    run_cell(settings, token=token, is_listening=is_listening, on_ready=ready)
