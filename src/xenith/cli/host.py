"""``xenith host``: hosts of the cloud, added and listed through its API."""

from __future__ import annotations

import asyncio
import getpass
import os
from typing import Annotated, Any

from cyclopts import App, Parameter

from xenith.cli.output import Output, show
from xenith.core.settings import load

app = App(help="Add hosts to the cloud and list them.")

Data = Annotated[str | None, Parameter(help="The cloud's data directory.")]


@app.command
def add(
    url: str,
    *,
    name: Annotated[str, Parameter(help="Its name; the address when left out.")] = "",
    user: Annotated[str, Parameter(help="Its XenAPI user.")] = "root",
    zone: Annotated[str, Parameter(help="Its availability zone.")] = "",
    data: Data = None,
    output: Output = "table",
) -> None:
    """Take in the XenAPI host at URL.

    Its password is asked for, or read from XENITH_HOST_PASSWORD, so that it is in no list of
    processes.
    """
    password = os.environ.get("XENITH_HOST_PASSWORD") or getpass.getpass(f"password of {user}: ")
    body = {"url": url, "name": name, "user": user, "zone": zone, "password": password}
    show(asyncio.run(_call(data, body))["host"], output)


@app.command(name="list")
def list_hosts(*, data: Data = None, output: Output = "table") -> None:
    """List the hosts, what they have, and whether they are up."""
    show(asyncio.run(_call(data, None))["hosts"], output)


async def _call(data: str | None, body: dict[str, str] | None) -> Any:
    from xenith.dev.client import ApiClient  # noqa: PLC0415 - --help does not pay for it

    async with ApiClient.of_directory(load(flags={"data": data}).data) as api:
        if body is None:
            return await api.get("/xenith/v1/hosts")
        return await api.post("/xenith/v1/hosts", body)
