"""The tree of cells in the operators' own API, and the door at which new cells join."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations.cell_edits import AddBody, ChangeBody, JoinBody
from xenith.compute.operations.operator import Operator
from xenith.compute.operations.smoke_test import SmokeBody
from xenith.http import Call, Endpoint
from xenith.http.policy import admin


async def list_cells(call: Call[Operator]) -> dict[str, Any]:
    """Tell of all cells as they are now."""
    return await call.service.cells.list()


async def show_cell(call: Call[Operator]) -> dict[str, Any]:
    """Tell of one cell as it is now."""
    return {"cell": await call.service.cells.get(call["cell"])}


async def add_cell(call: Call[Operator]) -> dict[str, Any]:
    """Issue the token with which a new cell joins."""
    return await call.service.cell_edits.add(call.body, api_url=call.site_url)


async def change_cell(call: Call[Operator]) -> dict[str, Any]:
    """Change what the topology says of a cell."""
    cell_id = await call.service.cell_edits.change(call["cell"], call.body)
    return {"cell": await call.service.cells.get(cell_id)}


async def remove_cell(call: Call[Operator]) -> dict[str, Any]:
    """Take a cell out of the tree; ``?force`` although it has servers."""
    # A name alone in the query string says yes.
    is_forced = call.asked("force") == "" or bool(call.asked_bool("force", default=False))
    return await call.service.cell_edits.remove(call["cell"], is_forced=is_forced)


async def rebuild_cell(call: Call[Operator]) -> dict[str, Any]:
    """Have what is known of a cell and all below it told anew."""
    return await call.service.cell_edits.rebuild(call["cell"])


async def test_cell(call: Call[Operator]) -> dict[str, Any]:
    """Build a server on a cell, see it ACTIVE and delete it."""
    result = await call.service.smoke_test.run(
        call.principal, call["cell"], call.body, request_id=call.request_id
    )
    return {"test": result}


async def join(call: Call[Operator]) -> dict[str, Any]:
    """Give a new cell its place for its one-time token, which is the credential."""
    return await call.service.cell_edits.join(call.body)


ENDPOINTS = (
    Endpoint("GET", "/v1/cells", list_cells, "xenith:cells:list", "cells.list"),
    Endpoint(
        "POST",
        "/v1/cells",
        add_cell,
        "xenith:cells:add",
        "cells.add",
        201,
        body=AddBody,
        codes=(400, 409),
    ),
    Endpoint("GET", "/v1/cells/{cell}", show_cell, "xenith:cells:show", "cells.show", codes=(404,)),
    Endpoint(
        "PATCH",
        "/v1/cells/{cell}",
        change_cell,
        "xenith:cells:change",
        "cells.change",
        body=ChangeBody,
        codes=(400, 404, 409),
    ),
    Endpoint(
        "DELETE",
        "/v1/cells/{cell}",
        remove_cell,
        "xenith:cells:remove",
        "cells.remove",
        codes=(404, 409),
    ),
    Endpoint(
        "POST",
        "/v1/cells/{cell}/rebuild",
        rebuild_cell,
        "xenith:cells:rebuild",
        "cells.rebuild",
        codes=(404, 503),
    ),
    Endpoint(
        "POST",
        "/v1/cells/{cell}/test",
        test_cell,
        "xenith:cells:test",
        "cells.test",
        body=SmokeBody,
        codes=(400, 404, 409, 503),
    ),
    Endpoint("POST", "/v1/join", join, None, "cells.join", body=JoinBody, codes=(400, 403, 409)),
)
POLICIES = dict.fromkeys(
    (
        "xenith:cells:list",
        "xenith:cells:add",
        "xenith:cells:show",
        "xenith:cells:change",
        "xenith:cells:remove",
        "xenith:cells:rebuild",
        "xenith:cells:test",
    ),
    admin,
)
