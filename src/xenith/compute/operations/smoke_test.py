"""The smoke test of a cell: one small server, built there on purpose, seen ACTIVE, and deleted.

A cell that is closed takes what is sent to it by name, so it is tested before any tenant's build
can go there. The server is the admin's own, without network, and is gone when the test is over.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from xenith.compute.operations.context import Context
from xenith.compute.operations.requests import ServerRequest
from xenith.compute.operations.servers import Servers, ServerView
from xenith.compute.operations.wanted import FLAVOR_CLASS
from xenith.compute.records.flavors import flavors
from xenith.core.errors import Conflict, Invalid, NotFound, Unavailable
from xenith.core.log import logger
from xenith.db import Row, Tx
from xenith.http import Principal

_log = logger("compute.smoke_test")

#: Seconds that the build has when nobody says, and the most that may be said: a client waits.
BUILD_TIMEOUT_S = 60.0
BUILD_TIMEOUT_S_MAX = 90.0
DELETE_TIMEOUT_S = 20.0
_LOOK_S = 0.1


class SmokeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is built."""

    #: The image's id.
    image: Annotated[str, msgspec.Meta(max_length=64)]
    #: The flavor's id; empty: the smallest public one that the image fits.
    flavor: Annotated[str, msgspec.Meta(max_length=255)] = ""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=BUILD_TIMEOUT_S_MAX)] = BUILD_TIMEOUT_S


class SmokeTest:
    """Tests cells."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._servers = Servers(context)

    async def run(
        self, principal: Principal, ref: str, body: SmokeBody, *, request_id: str
    ) -> dict[str, Any]:
        """Build a server on a cell, wait until it is ACTIVE, delete it; tell what took how long.

        Raises:
            NotFound: there is no such cell.
            Conflict: the cell is being drained, or the build ended in ERROR; the message says why.
            Unavailable: it was not ACTIVE, or not gone, in time.
        """
        entry = self._context.node.topology.get(ref)
        if entry.state == "draining":
            raise Conflict(f"cell {entry.name} is draining: it takes no builds, not even a test's")
        flavor = await self._context.db.read(self._flavor, principal, body, entry.flavor_classes)
        request = ServerRequest(
            name=f"smoke-test-{entry.name}",
            image_ref=body.image,
            flavor_ref=flavor.id,
            nics=(),
            hints={"target_cell": entry.id},
        )
        begun = self._clock()
        made = await self._servers.create(principal, request, request_id=request_id)
        server_id = made.ids[0]
        _log.info("smoke test begins", cell=entry.id, server=server_id)
        times: dict[str, float] = {}
        view, reason = None, ""
        try:
            view = await self._wait_built(principal, server_id, begun, times, body.timeout_s)
        except (Conflict, Unavailable) as error:
            reason = error.message
        deleting = self._clock()
        await self._servers.delete(principal, server_id, request_id=request_id)
        is_gone = await self._wait_gone(principal, server_id)
        if view is None:
            left = "" if is_gone else f"; server {server_id} is not gone yet"
            raise Conflict(f"the smoke test of cell {entry.name} failed: {reason}{left}")
        if not is_gone:
            raise Unavailable(
                f"the smoke test's server {server_id} was ACTIVE, and is not gone "
                f"{DELETE_TIMEOUT_S:.0f} s after its deletion"
            )
        instance: Row = view.instance
        return {
            "cell": entry.name,
            "server": server_id,
            "host": instance.host_name,
            "built_in": self._context.node.topology.path(instance.cell_id),
            "image": body.image,
            "flavor": flavor.name,
            "accepted_s": round(times["accepted"], 3),
            "active_s": round(times["active"], 3),
            "deleted_s": round(self._clock() - deleting, 3),
        }

    def _flavor(
        self, tx: Tx, principal: Principal, body: SmokeBody, flavor_classes: tuple[str, ...]
    ) -> Row:
        """Choose what is built. Transaction function."""
        image = self._context.images.find_image(tx, body.image, principal)
        if image is None:
            raise Invalid(f"Image {body.image} could not be found.")
        if body.flavor:
            found = tx.find(flavors, id=body.flavor) or tx.find(flavors, name=body.flavor)
            if found is None:
                raise Invalid(f"Flavor {body.flavor} could not be found.")
            return found
        size_bytes = max(image.size_bytes or 0, image.virtual_size_bytes or 0)
        fitting = [
            flavor
            for flavor in tx.list(flavors, is_public=True, is_disabled=False)
            if flavor.ram_mib >= image.min_ram_mib
            and flavor.root_gib >= image.min_disk_gib
            and flavor.root_gib * 2**30 >= size_bytes
            and (
                not flavor_classes or (flavor.extra_specs or {}).get(FLAVOR_CLASS) in flavor_classes
            )
        ]
        if not fitting:
            raise Invalid("No public flavor holds the image and is of a class that the cell takes.")
        return min(fitting, key=lambda each: (each.ram_mib, each.root_gib, each.vcpus, each.id))

    async def _wait_built(
        self,
        principal: Principal,
        server_id: str,
        begun: float,
        times: dict[str, float],
        timeout_s: float,
    ) -> ServerView:
        while True:
            view = await self._servers.show(principal, server_id)
            passed = self._clock() - begun
            if view.server.cell_id is not None:
                times.setdefault("accepted", passed)
            if view.vm_state == "active" and view.task_state is None:
                times["active"] = passed
                return view
            if view.vm_state == "error":
                told = view.server.fault if view.instance is None else view.instance.fault
                fault = told or {}
                raise Conflict(str(fault.get("details") or fault.get("message") or "no reason"))
            if passed > timeout_s:
                state = view.task_state or view.vm_state
                raise Unavailable(f"its server was still {state} after {timeout_s:g} s")
            await self._context.world.clock.sleep(_LOOK_S)

    async def _wait_gone(self, principal: Principal, server_id: str) -> bool:
        until = self._clock() + DELETE_TIMEOUT_S
        while self._clock() < until:
            try:
                await self._servers.show(principal, server_id)
            except NotFound:
                return True
            await self._context.world.clock.sleep(_LOOK_S)
        return False

    def _clock(self) -> float:
        return self._context.world.clock.monotonic()
