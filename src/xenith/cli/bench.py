"""``xenith bench``: figures, measured here and now. Machines differ: read ratios and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from xenith.cli.output import Output, show

app = App(help="Measure builds, lists, cells, disks and the start.")

Database = Annotated[str, Parameter(help="postgresql://… in place of SQLite.")]


@app.command
def builds(
    *,
    servers: int = 1000,
    hosts: int = 1000,
    clients: Annotated[int, Parameter(help="Requests in flight.")] = 16,
    database: Database = "",
    output: Output = "table",
) -> None:
    """Build servers on simulated hosts: builds per second, processor time, time of the POST."""
    from xenith.dev.bench import builds as bench  # noqa: PLC0415 - --help pays for nothing

    show(bench.measure(servers=servers, hosts=hosts, clients=clients, database=database), output)


@app.command
def startup(*, runs: int = 5, hosts: int = 3, output: Output = "table") -> None:
    """Start new clouds: seconds to a first token, and resident memory."""
    from xenith.dev.bench import startup as bench  # noqa: PLC0415

    show(bench.measure(runs=runs, hosts=hosts), output)


@app.command
def lists(
    *,
    servers: int = 100_000,
    page: int = 100,
    calls: int = 200,
    database: Database = "",
    output: Output = "table",
) -> None:
    """List pages of servers in detail, out of many."""
    from xenith.dev.bench import lists as bench  # noqa: PLC0415

    show(bench.measure(servers=servers, page=page, calls=calls, database=database), output)


@app.command
def images(
    *,
    images: int = 1_000_000,
    calls: Annotated[int, Parameter(help="Of each list.")] = 20,
    database: Database = "",
    output: Output = "table",
) -> None:
    """List pages of images by each filter, out of many, for a large tenant and an operator."""
    from xenith.dev.bench import images as bench  # noqa: PLC0415

    show(bench.measure(images=images, calls=calls, database=database)["lists"], output)


@app.command
def cells(
    *parts: Annotated[
        str, Parameter(help="builds, width, changes, lists, choosing, deaths, memory; or all.")
    ],
    small: Annotated[
        bool, Parameter(help="Each part in seconds, to see that it works.", negative=())
    ] = False,
    output: Output = "table",
) -> None:
    """Measure trees of cells: builds through them, lag of changes, lists, choices, deaths."""
    from xenith.dev.bench import cells as bench  # noqa: PLC0415

    show(bench.measure(parts, is_small=small), output)


@app.command
def vhd(
    *,
    size_mib: Annotated[int, Parameter(help="Of the disks that are moved whole.")] = 2048,
    delta_mib: Annotated[int, Parameter(help="Of the disk of which a little changes.")] = 10240,
    runs: Annotated[int, Parameter(help="Of which the best counts.")] = 5,
    directory: Annotated[
        Path | None, Parameter(help="Where the disks are made, with twice their room.")
    ] = None,
    output: Output = "table",
) -> None:
    """Move disks between raw and VHD, flatten a chain, make deltas; beside qemu-img and cp."""
    from xenith.dev.bench import vhd as bench  # noqa: PLC0415

    measured = bench.measure(size_mib=size_mib, delta_mib=delta_mib, runs=runs, directory=directory)
    show(measured if output == "json" else bench.rows(measured), output)
