"""``xenith up``: a whole cloud on this machine, in the foreground or detached."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from xenith.core import log
from xenith.core.errors import Unavailable
from xenith.core.settings import Settings, load

if TYPE_CHECKING:
    from xenith.dev.cloud import Cloud

app = App(help="Start a whole cloud on this machine.")

#: Seconds that a detached cloud has to become ready.
READY_TIMEOUT_S = 120.0
LOG_FILE = "xenith.log"
READY_FILE = "ready"


@app.default
def up(
    *,
    config: Annotated[Path | None, Parameter(help="A xenith.toml with settings.")] = None,
    data: Annotated[str | None, Parameter(help="Where everything is kept.")] = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT of the API.")] = None,
    hosts: Annotated[int | None, Parameter(help="Hosts that it runs itself.")] = None,
    backend: Annotated[str | None, Parameter(help="auto, sim or qemu.")] = None,
    seed: Annotated[int | None, Parameter(help="Repeatable ids and chance; tests only.")] = None,
    database: Annotated[str | None, Parameter(help="postgresql://… in place of SQLite.")] = None,
    role: Annotated[str | None, Parameter(help="alone, or the root of a tree of cells.")] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error.")] = None,
    detach: Annotated[bool, Parameter(help="Run on in the background.", negative=())] = False,
) -> int:
    """Start a whole cloud and say how to use it; Ctrl-C stops it, its servers run on."""
    flags = {
        "data": data,
        "listen": listen,
        "hosts": hosts,
        "backend": backend,
        "seed": seed,
        "database": database,
        "role": role,
        "log_level": log_level,
    }
    if config is None and Path("xenith.toml").exists():
        config = Path("xenith.toml")
    settings = load(config, flags=flags)
    if detach:
        return _detach(settings, config, flags)
    _run(settings)
    return 0


def _run(settings: Settings) -> None:
    from xenith.dev.serving import run  # noqa: PLC0415

    log.configure(level=settings.log_level, as_json=settings.log_json)

    def ready(cloud: Cloud) -> None:
        draft = cloud.directory / (READY_FILE + ".new")
        draft.write_text(cloud.site_url + "\n")
        draft.replace(cloud.directory / READY_FILE)
        print(f"ready {cloud.site_url}", flush=True)
        clouds = cloud.directory / "clouds.yaml"
        print(
            f"  {_hosts_of(settings, cloud)}; use it with:\n"
            f"  export OS_CLIENT_CONFIG_FILE={clouds} OS_CLOUD=xenith-demo\n"
            f"  openstack server list        # OS_CLOUD=xenith is the admin",
            flush=True,
        )

    (Path(settings.data) / READY_FILE).unlink(missing_ok=True)
    run(settings, on_ready=ready)


def _hosts_of(settings: Settings, cloud: Cloud) -> str:
    if settings.role == "root":
        return "its hosts are those of its cells (xenith cell tree)"
    count = cloud.host_count
    return f"{count} {cloud.hosts.backend} host{'' if count == 1 else 's'}"


def _detach(settings: Settings, config: Path | None, flags: dict[str, Any]) -> int:
    url, pid = start_detached(settings, config, flags)
    directory = Path(settings.data).absolute()
    print(f"ready {url}")
    print(
        f"  process {pid}, log {directory / LOG_FILE}; use it with:\n"
        f"  export OS_CLIENT_CONFIG_FILE={directory / 'clouds.yaml'} OS_CLOUD=xenith-demo\n"
        f"  stop it with: xenith down --data {settings.data}"
    )
    return 0


def start_detached(
    settings: Settings, config: Path | None, flags: dict[str, Any]
) -> tuple[str, int]:
    """Start a cloud in a process of its own and wait until it serves; give its URL and id.

    Raises:
        Unavailable: it did not start, or not in time; the message names its log.
    """
    directory = Path(settings.data).absolute()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ready = directory / READY_FILE
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "xenith.cli", "up"]
    if config is not None:
        command += ["--config", str(config)]
    for name, value in flags.items():
        if value is not None:
            command += ["--" + name.replace("_", "-"), str(value)]
    with (directory / LOG_FILE).open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ready.exists():
        if process.poll() is not None:
            raise Unavailable(
                f"the cloud did not start: {_last_line(directory / LOG_FILE)} "
                f"(log {directory / LOG_FILE})"
            )
        if time.monotonic() > deadline:
            raise Unavailable(f"the cloud is not ready yet: see {directory / LOG_FILE}")
        time.sleep(0.02)
    return ready.read_text().strip(), process.pid


def _last_line(log_file: Path) -> str:
    lines = log_file.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("error:")), "")
