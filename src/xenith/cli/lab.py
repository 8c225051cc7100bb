"""``xenith lab``: a simulated region of many cells on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from xenith.cli.up import READY_FILE
from xenith.core import log
from xenith.core.settings import load

if TYPE_CHECKING:
    from xenith.dev.lab import Lab

app = App(help="Run a simulated region of many cells on this machine.")


@app.command
def up(
    *,
    tree: Annotated[
        str | None, Parameter(help="Cells by level: 1x4x8 is a root, 4 below it, 8 below each.")
    ] = None,
    hosts_per_cell: Annotated[int | None, Parameter(help="Hosts of each lowest cell.")] = None,
    without: Annotated[
        list[str] | None, Parameter(help="A cell that is not started, as if it were dead.")
    ] = None,
    config: Annotated[Path | None, Parameter(help="A xenith.toml with settings.")] = None,
    data: Annotated[str | None, Parameter(help="Where everything is kept.")] = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT of the API.")] = None,
    database: Annotated[
        str | None, Parameter(help="postgresql://… for the root's rows, in place of SQLite.")
    ] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error.")] = None,
) -> None:
    """Start a region in the foreground and say how to use it; Ctrl-C or `xenith down` stops it.

    Started again on the same data, it goes on where it was; --tree is then not needed.
    """
    from xenith.dev.lab import choose_shape  # noqa: PLC0415 - --help does not pay for a cloud
    from xenith.dev.lab_serving import run_lab  # noqa: PLC0415

    flags = {"data": data, "listen": listen, "database": database, "log_level": log_level}
    settings = load(config, flags=flags)
    directory = Path(settings.data).absolute()
    log.configure(level=settings.log_level, as_json=settings.log_json)
    shape = choose_shape(directory, tree, hosts_per_cell)
    (directory / READY_FILE).unlink(missing_ok=True)
    run_lab(
        settings,
        shape,
        without=without or (),
        on_ready=lambda lab: _say_ready(lab, settings.data),
    )


def _say_ready(lab: Lab, data: str) -> None:
    draft = lab.directory / (READY_FILE + ".new")
    draft.write_text(lab.cloud.site_url + "\n")
    draft.replace(lab.directory / READY_FILE)
    counts = lab.counts
    print(
        f"ready {lab.cloud.site_url}\n"
        f"  {counts.cells} cells, {counts.leaves} of them with {lab.shape.hosts_per_cell} sim "
        f"hosts each ({counts.hosts}); use it with:\n"
        f"  export OS_CLIENT_CONFIG_FILE={lab.directory / 'clouds.yaml'} OS_CLOUD=xenith-demo\n"
        f"  openstack server list        # OS_CLOUD=xenith is the admin\n"
        f"  stop it with: xenith down --data {data}",
        flush=True,
    )
