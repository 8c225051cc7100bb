"""``xenith cell``: the cells of the tree, as an operator manages them through the cloud's API."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from cyclopts import App, Parameter

from xenith.cli import cell_run
from xenith.cli.cell_tree import draw
from xenith.cli.output import Output, cell, show
from xenith.core.errors import Invalid, Unauthenticated, Unavailable
from xenith.core.settings import load

if TYPE_CHECKING:
    from xenith.dev.client import ApiClient

app = App(help="Add cells to the tree, look at them, open, drain and remove them.")

Data = Annotated[str | None, Parameter(help="The cloud's data directory.")]
Ref = Annotated[str, Parameter(name="CELL", help="The cell's name or id.")]
Image = Annotated[str, Parameter(help="The image's id; the smallest one when left out.")]
Flavor = Annotated[str, Parameter(help="A flavor; the smallest that fits when left out.")]

#: Seconds between two drawings of a tree that is watched.
WATCH_PERIOD_S = 2.0
#: Clears a terminal and begins at its top. Source: ECMA-48, ED and CUP.
_CLEAR = "\x1b[H\x1b[2J"
_CELLS = "/xenith/v1/cells"

app.command(cell_run.run)


@app.command
def tree(
    *,
    watch: Annotated[bool, Parameter(help="Draw it anew until Ctrl-C.", negative=())] = False,
    flavor: Annotated[
        tuple[str, ...],
        Parameter(help="A flavor whose room is shown; may be said again.", negative=()),
    ] = (),
    data: Data = None,
    output: Output = "table",
) -> None:
    """Draw the tree: each cell's state, hosts up, servers, age of its rows, link, room."""

    async def look(api: ApiClient) -> None:
        while True:
            try:
                found = await api.get(_CELLS)
            except (Unauthenticated, Unavailable) as error:
                if not watch:
                    raise
                # The token has expired, or the root is started anew: who watches wants to know.
                print(_CLEAR + error.message, flush=True)
                await asyncio.sleep(WATCH_PERIOD_S)
                with suppress(Unavailable):
                    await api.sign_in()
                continue
            if output == "json":
                show(found, output)
            else:
                print((_CLEAR if watch else "") + draw(found, flavor), flush=True)
            if not watch:
                return
            await asyncio.sleep(WATCH_PERIOD_S)

    _run(data, look)


@app.command(name="show")
def show_cell(ref: Ref, *, data: Data = None, output: Output = "table") -> None:
    """Show one cell, by its name or id: its place, rules, links and what it says of itself."""
    found = _run(data, lambda api: api.get(_path(ref)))["cell"]
    if output == "json":
        show(found, output)
        return
    links = found.pop("links")
    show(found, output)
    if links:
        print()
        show(links, output)


@app.command
def add(
    name: str,
    *,
    parent: Annotated[
        tuple[str, ...],
        Parameter(help="The cell above; may be said again. The root by default.", negative=()),
    ] = (),
    weight: Annotated[float, Parameter(help="Its share of builds beside its siblings.")] = 1.0,
    offset: Annotated[float, Parameter(help="Added to what the choice makes of it.")] = 0.0,
    project: Annotated[
        tuple[str, ...],
        Parameter(help="The only projects that it takes; may be said again.", negative=()),
    ] = (),
    flavor_class: Annotated[
        tuple[str, ...],
        Parameter(help="The only classes of flavor that it takes.", negative=()),
    ] = (),
    broker: Annotated[str, Parameter(help="The address of its link broker.")] = "",
    api_url: Annotated[str, Parameter(help="Where the new machine reaches this API.")] = "",
    hours: Annotated[float, Parameter(help="Hours that the token is good for.")] = 24.0,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Expect a new cell: give its one-time token, and the command for its machine.

    It enters the tree when it joins, closed; `xenith cell open` tests it and opens it.
    """
    body = {
        "name": name,
        "parents": parent,
        "weight": weight,
        "weight_offset": offset,
        "projects": project,
        "flavor_classes": flavor_class,
        "broker": broker,
        "api_url": api_url,
        "life_s": hours * 3600,
    }
    added = _run(data, lambda api: api.post(_CELLS, body))
    if output == "json":
        show(added, output)
        return
    print(
        f"cell {cell(added['name'])} is expected below {cell(added['parents'])} until "
        f"{added['expires_at']}. The token is good once, and is shown once. On its machine:\n\n"
        f"  xenith cell run --join {added['token']}\n\n"
        f"then, here:  xenith cell open {cell(added['name'])}"
    )


@app.command(name="open")
def open_cell(
    ref: Ref,
    *,
    untested: Annotated[bool, Parameter(help="Without the smoke test.", negative=())] = False,
    image: Image = "",
    flavor: Flavor = "",
    data: Data = None,
    output: Output = "table",
) -> None:
    """Open a cell for builds, after a smoke test: a server is built there, and deleted."""

    async def work(api: ApiClient) -> Any:
        if not untested:
            tested = await _smoke(api, ref, image, flavor)
            if output != "json":
                print(_passed(tested))
        return await api.patch(_path(ref), {"state": "open"})

    _say(_run(data, work)["cell"], output)


@app.command
def close(ref: Ref, *, data: Data = None, output: Output = "table") -> None:
    """Have a cell take no more builds; its servers stay and are looked after."""
    _say(_run(data, lambda api: api.patch(_path(ref), {"state": "closed"}))["cell"], output)


@app.command
def drain(
    ref: Ref,
    *,
    to: Annotated[str, Parameter(help="The cell where its servers would best go.")] = "",
    data: Data = None,
    output: Output = "table",
) -> None:
    """Have a cell take no more builds, and say that it is to be emptied."""
    body = {"state": "draining", "successor": to or None}
    _say(_run(data, lambda api: api.patch(_path(ref), body))["cell"], output)


@app.command
def weight(
    ref: Ref,
    weight: Annotated[float, Parameter(help="Its share beside its siblings; 0 takes none.")],
    *,
    offset: Annotated[
        float | None, Parameter(help="Added to what the choice makes of it; of either sign.")
    ] = None,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Give a cell another share of builds."""
    body = {"weight": weight} | ({} if offset is None else {"weight_offset": offset})
    _say(_run(data, lambda api: api.patch(_path(ref), body))["cell"], output)


@app.command
def broker(
    ref: Ref,
    address: Annotated[str, Parameter(help="Where its link broker is now; amqps://HOST:PORT.")],
    *,
    ca: Annotated[
        Path | None, Parameter(help="The file of the certificate that the broker's comes from.")
    ] = None,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Tell the tree that a cell's broker is elsewhere, or has a certificate from elsewhere.

    Without --ca, the certificate of an amqps:// broker stays the one that is known.
    Parents make their links anew. A cell's own settings name its broker too, and go first.
    """
    body = {"broker": address} | ({} if ca is None else {"broker_ca": _certificate(ca).hex()})
    _say(_run(data, lambda api: api.patch(_path(ref), body))["cell"], output)


@app.command(name="test")
def smoke_test(
    ref: Ref,
    *,
    image: Image = "",
    flavor: Flavor = "",
    data: Data = None,
    output: Output = "table",
) -> None:
    """Build a small server on a cell, closed or open, see it ACTIVE, and delete it."""
    tested = _run(data, lambda api: _smoke(api, ref, image, flavor))
    if output == "json":
        show(tested, output)
    else:
        print(_passed(tested))


@app.command
def rebuild(ref: Ref, *, data: Data = None, output: Output = "table") -> None:
    """Drop what is known of a cell and all below it, and have it told anew by them.

    Until that is done, their servers are shown without what their cells say of them.
    """
    done = _run(data, lambda api: api.post(_path(ref, "rebuild"), {}))
    show(done if output == "json" else done["in"], output)


@app.command
def remove(
    ref: Ref,
    *,
    force: Annotated[
        bool, Parameter(help="Although it has servers, or children of others too.", negative=())
    ] = False,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Take a cell out of the tree and revoke its key; or void the token of one that is expected."""
    query = {"force": "true"} if force else {}
    gone = _run(data, lambda api: api.delete(_path(ref), **query))
    if output == "json":
        show(gone, output)
        return
    print(f"cell {cell(gone['removed'])} is removed")
    for left in gone["stays"]:
        print(f"  stays: {cell(left)}")


def _certificate(path: Path) -> bytes:
    """Read a certificate's file, in PEM, as DER."""
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise Invalid(f"the broker's certificate cannot be read: {error}") from error


async def _smoke(api: ApiClient, ref: str, image: str, flavor: str) -> Any:
    """Run a smoke test, with the smallest image when none is named."""
    body = {"image": image or await _smallest_image(api), "flavor": flavor}
    return (await api.post(_path(ref, "test"), body))["test"]


async def _smallest_image(api: ApiClient) -> str:
    found = await api.get("/image/v2/images", status="active", sort="size:asc", limit=1)
    if not found["images"]:
        raise Invalid(
            "there is no image to build a test's server from",
            next_step="upload one (xenith image build tiny makes one), or open with --untested",
        )
    return str(found["images"][0]["id"])


def _passed(tested: Any) -> str:
    return (
        f"cell {cell(tested['cell'])} passes: a {cell(tested['flavor'])} on host "
        f"{cell(tested['host'])} was accepted after {tested['accepted_s']:.2f} s, ACTIVE after "
        f"{tested['active_s']:.2f} s, and deleted in {tested['deleted_s']:.2f} s"
    )


def _say(changed: Any, output: Literal["table", "json"]) -> None:
    """Show what an operator changes of a cell; all of it for programs."""
    if output == "json":
        show(changed, output)
        return
    names = ("name", "path", "state", "successor", "weight", "weight_offset", "is_dark")
    show({name: changed[name] for name in names}, output)


def _path(ref: str, *rest: str) -> str:
    return "/".join((_CELLS, quote(ref, safe=""), *rest))


def _run(data: str | None, work: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        from xenith.dev.client import ApiClient  # noqa: PLC0415 - --help does not pay for it

        async with ApiClient.of_directory(load(flags={"data": data}).data) as api:
            return await work(api)

    return asyncio.run(run())
