"""The tree of cells in the operators' own API."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations.operator import Operator
from xenith.http import Call, Endpoint
from xenith.http.policy import admin


async def list_cells(call: Call[Operator]) -> dict[str, Any]:
    """Tell of all cells as they are now."""
    return await call.service.cells.list()


async def show_cell(call: Call[Operator]) -> dict[str, Any]:
    """Tell of one cell as it is now."""
    return {"cell": await call.service.cells.get(call["cell"])}


ENDPOINTS = (
    Endpoint("GET", "/v1/cells", list_cells, "xenith:cells:list", "cells.list"),
    Endpoint("GET", "/v1/cells/{cell}", show_cell, "xenith:cells:show", "cells.show", codes=(404,)),
)
POLICIES = {
    "xenith:cells:list": admin,
    "xenith:cells:show": admin,
}
