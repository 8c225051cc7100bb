"""``xenith cell``: the cells of the tree, as an operator manages them through the cloud's API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from cyclopts import App, Parameter

from xenith.cli.cell_tree import draw
from xenith.cli.output import Output, show
from xenith.core.settings import load

if TYPE_CHECKING:
    from xenith.dev.client import ApiClient

app = App(help="Add cells to the tree, look at them, open, drain and remove them.")

Data = Annotated[str | None, Parameter(help="The cloud's data directory.")]

#: Seconds between two drawings of a tree that is watched.
WATCH_PERIOD_S = 2.0
#: Clears a terminal and begins at its top. Source: ECMA-48, ED and CUP.
_CLEAR = "\x1b[H\x1b[2J"
_CELLS = "/xenith/v1/cells"


@app.command
def tree(
    *,
    watch: Annotated[bool, Parameter(help="Draw it anew until Ctrl-C.", negative=())] = False,
    flavor: Annotated[
        tuple[str, ...], Parameter(help="A flavor whose room is shown; may be said again.")
    ] = (),
    data: Data = None,
    output: Output = "table",
) -> None:
    """Draw the tree: each cell's state, hosts up, servers, age of its rows, link, room."""

    async def look(api: ApiClient) -> None:
        while True:
            found = await api.get(_CELLS)
            if output == "json":
                show(found, output)
            else:
                print((_CLEAR if watch else "") + draw(found, flavor), flush=True)
            if not watch:
                return
            await asyncio.sleep(WATCH_PERIOD_S)

    _run(data, look)


@app.command(name="show")
def show_cell(cell: str, *, data: Data = None, output: Output = "table") -> None:
    """Show one cell, by its name or id: its place, rules, links and what it says of itself."""
    found = _run(data, lambda api: api.get(_path(cell)))["cell"]
    if output == "json":
        show(found, output)
        return
    links = found.pop("links")
    show(found, output)
    if links:
        print()
        show(links, output)


def _path(cell: str, *rest: str) -> str:
    return "/".join((_CELLS, quote(cell, safe=""), *rest))


def _run(data: str | None, work: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        from xenith.dev.client import ApiClient  # noqa: PLC0415 - --help does not pay for it

        async with ApiClient.of_directory(load(flags={"data": data}).data) as api:
            return await work(api)

    return asyncio.run(run())
