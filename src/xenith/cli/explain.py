"""``xenith explain``: why a server is where it is, or nowhere."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from cyclopts import App, Parameter

from xenith.cli.output import Output, cell, show, table
from xenith.core.settings import load

app = App(help="Say why a server is where it is, or nowhere.")


@app.command
def server(
    server_id: str,
    *,
    data: Annotated[str | None, Parameter(help="The cloud's data directory.")] = None,
    output: Output = "table",
) -> None:
    """Say why this host; or per filter how many were left, and the nearest miss."""
    found = asyncio.run(_explain(data, server_id))
    if output == "json":
        show(found, output)
        return
    for line in lines(found):
        print(line)


def lines(found: dict[str, Any]) -> list[str]:
    """Word an explanation for people."""
    said = [f"server {cell(found['server'])} is {found['status']}"]
    if found.get("host"):
        said[0] += f" on {cell(found['host'])}"
    for number, step in enumerate(found.get("cells", ()), start=1):
        said += _cell_lines(step, number)
    for choice in found["choices"]:
        said.append(f"\nattempt {choice['attempt']}: {choice['hosts']} hosts")
        said.append(
            table(
                [
                    {"filter": row["name"], "hosts": row["before"], "left": row["after"]}
                    for row in choice["filters"]
                ]
            )
        )
        said += [
            f"weight of {cell(row['host_name'])}: {row['total']:.3f} ({cell(row['by_weigher'])})"
            for row in choice.get("weights", ())
        ]
        for miss in choice["misses"]:
            lacks = "; ".join(cell(lack.get("text", lack["filter"])) for lack in miss["lacks"])
            said.append(f"nearest miss {cell(miss.get('host_name', ''))}: {lacks}")
    if found.get("fault"):
        said.append(f"\nfault: {cell(found['fault'])}")
    if found.get("fault_details"):
        said += [f"  {cell(line)}" for line in found["fault_details"].splitlines()]
    return said


def _cell_lines(step: dict[str, Any], number: int) -> list[str]:
    """Word one choice of a cell; a tenant is told how many there were, and not which."""
    left = step["cell_count"]
    rows = []
    for row in step["filters"]:
        rows.append({"filter": row["name"], "cells": left, "left": row["cells_left"]})
        left = row["cells_left"]
    said = [f"\nchoice of a cell, {number}: {step['cell_count']} cells", table(rows)]
    said += [
        f"drawn {cell(row['name'])}: weight {row['weight']:.3f}, room for {row['slots']}, "
        f"{row['in_flight']} in flight"
        for row in step.get("sampled", ())
    ]
    said += [
        f"left out {cell(row['name'])}: {cell(row['text'])} ({cell(row['filter'])})"
        for row in step.get("misses", ())
    ]
    return said


async def _explain(data: str | None, server_id: str) -> Any:
    from xenith.dev.client import ApiClient  # noqa: PLC0415 - --help does not pay for it

    async with ApiClient.of_directory(load(flags={"data": data}).data) as api:
        return (await api.get(f"/xenith/v1/servers/{server_id}/explanation"))["explanation"]
