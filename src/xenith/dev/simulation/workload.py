"""Tenants of a simulated region: they make servers, use them, look at them and delete them.

They ask the root's own operations, as the API's handlers do. What is refused is none of their
trouble; what was accepted is kept, since it must come to an end that they were promised.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from xenith.compute.operations.requests import ServerRequest
from xenith.compute.records.server_lists import ServerFilter
from xenith.compute.records.servers import servers
from xenith.compute.states import TRANSITIONS
from xenith.core.errors import XenithError
from xenith.db import Tx
from xenith.dev.cells import Root
from xenith.dev.simulation.images import LARGE, SMALL
from xenith.dev.simulation.owner import ProcessDied
from xenith.dev.simulation.region import FLAVORS, ZONES, Region
from xenith.http import Principal
from xenith.http.paging import Page

T = TypeVar("T")

#: Tenants; each does one thing after the other.
TENANT_COUNT = 3
#: Seconds that a tenant waits between two things, on average.
PAUSE_S = 1.2
#: Servers that a tenant has before it thinks of deleting some: more than fit, all tenants together.
SERVERS_ENOUGH = 40
#: Seconds that a tenant waits for an answer.
PATIENCE_S = 30.0
#: Page sizes of lists; most lists need several pages.
PAGE_LIMITS = (3, 10, 50)


class WrongAnswer(Exception):
    """The API said something that it must never say."""


class Workload:
    """All tenants; ``work`` goes on until it is cancelled."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._tenants = [
            Tenant(region, f"tenant-{number}", self) for number in range(1, TENANT_COUNT + 1)
        ]
        #: Servers whose making was answered with their ids.
        self.accepted: set[str] = set()
        #: Servers whose deletion was accepted.
        self.deleted: set[str] = set()
        #: What was asked and what came of it, as ``create`` or ``create Conflict``.
        self.counts: Counter[str] = Counter()

    async def work(self) -> None:
        """Have all tenants work."""
        async with asyncio.TaskGroup() as group:
            for tenant in self._tenants:
                group.create_task(tenant.work(), name=tenant.name)

    async def leave(self, cell_id: str) -> None:
        """Have tenants delete what they have in a cell, as when they were asked to."""
        found = await self._region.root.observer.read(list_living, cell_id)
        tenants = {tenant.name: tenant for tenant in self._tenants}
        for server_id, project_id in found:
            if project_id in tenants:
                await tenants[project_id].leave(server_id)


class _Rebuild(msgspec.Struct, frozen=True):
    """The body of a rebuild, with nothing but its image."""

    image_ref: str
    admin_pass: str


class Tenant:
    """One project with one user."""

    def __init__(self, region: Region, name: str, workload: Workload) -> None:
        self.name = name
        self._region = region
        self._ids = region.simulation.ids(name)
        self._all = workload
        self._servers: list[str] = []
        #: Servers whose resize was accepted, and by now may be confirmed or reverted.
        self._resized: list[str] = []
        self._who = Principal(
            user_id=name,
            user_name=name,
            user_domain_id="default",
            roles=frozenset({"member", "reader"}),
            project_id=name,
        )

    async def work(self) -> None:
        """Do one thing after the other."""
        while True:
            await asyncio.sleep(2 * PAUSE_S * self._ids.uniform())
            name, thing = self._choose()
            await self._try(name, thing)

    def _choose(self) -> tuple[str, Callable[[Root], Awaitable[None]]]:
        drawn = self._ids.uniform()
        has_enough = len(self._servers) >= SERVERS_ENOUGH
        if not self._servers or drawn < (0.15 if has_enough else 0.4):
            return "create", self._create
        if drawn < (0.5 if has_enough else 0.55):
            return "delete", self._delete
        if drawn < 0.75:
            return "power", self._power
        if drawn < 0.85:
            return self._choose_of_size()
        if drawn < 0.9:
            return ("image", self._image) if drawn < 0.875 else ("rebuild", self._rebuild)
        return ("list", self._list) if drawn < 0.95 else ("show", self._show)

    def _choose_of_size(self) -> tuple[str, Callable[[Root], Awaitable[None]]]:
        """Resize, or end a resize: what was resized is looked for first."""
        drawn = self._ids.uniform()
        if not self._resized or drawn < 0.5:
            return "resize", self._resize
        return ("confirm", self._confirm) if drawn < 0.8 else ("revert", self._revert)

    async def _try(self, name: str, thing: Callable[[Root], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._region.call(thing)
        except XenithError as error:
            self._all.counts[f"{name} {type(error).__name__}"] += 1
        except (ProcessDied, TimeoutError):
            self._all.counts[f"{name} unanswered"] += 1
        else:
            self._all.counts[name] += 1

    async def _create(self, root: Root) -> None:
        ids = self._ids
        count = 1 + ids.below(3)
        request = ServerRequest(
            name="web",
            image_ref=self._one_of((SMALL.id, LARGE.id)),
            flavor_ref=self._one_of(tuple(FLAVORS)),
            min_count=1,
            max_count=count,
            zone=self._one_of((*ZONES, "nowhere")) if ids.uniform() < 0.2 else None,
            config_drive=ids.uniform() < 0.5,
            hints=self._hints() if ids.uniform() < 0.2 else {},
        )
        made = await root.service.servers.create(
            self._who, request, request_id=root.world.ids.request_id()
        )
        self._all.accepted.update(made.ids)
        self._servers.extend(made.ids)
        self._region.events.tell("asked for", tenant=self.name, servers=",".join(made.ids))

    def _hints(self) -> dict[str, str | list[str]]:
        leaves = tuple(place.name for place in self._region.leaves)
        name = self._one_of(("target_cell", "different_cell", "different_host", "same_host"))
        if name.endswith("cell"):
            return {name: self._one_of(leaves)}
        return {name: [self._any_server()]} if self._servers else {}

    async def leave(self, server_id: str) -> None:
        """Delete a server, if nothing stands in the way."""
        await self._try("leave", lambda root: self._delete_one(root, server_id))

    async def _delete(self, root: Root) -> None:
        await self._delete_one(root, self._any_server())

    async def _delete_one(self, root: Root, server_id: str) -> None:
        await root.service.servers.delete(
            self._who, server_id, request_id=root.world.ids.request_id()
        )
        # Its tenant may have asked for it at the same time as who empties its cell.
        self._servers = [each for each in self._servers if each != server_id]
        # It may have been resized more than once.
        self._resized = [each for each in self._resized if each != server_id]
        self._all.deleted.add(server_id)
        self._region.events.tell("deleted", tenant=self.name, server=server_id)

    async def _power(self, root: Root) -> None:
        server_id = self._any_server()
        transition = self._one_of(tuple(TRANSITIONS))
        await root.service.actions.power(
            self._who, server_id, transition, request_id=root.world.ids.request_id()
        )
        self._region.events.tell(transition, tenant=self.name, server=server_id)

    async def _resize(self, root: Root) -> None:
        server_id = self._any_server()
        view = await root.service.servers.show(self._who, server_id)
        others = tuple(each for each in FLAVORS if each != view.server.flavor_id)
        flavor = self._one_of(others)
        await root.service.resizes.resize(
            self._who, server_id, flavor, request_id=root.world.ids.request_id()
        )
        self._resized.append(server_id)
        self._region.events.tell("resized", tenant=self.name, server=server_id, flavor=flavor)

    async def _confirm(self, root: Root) -> None:
        server_id = self._one_of(tuple(self._resized))
        await root.service.resizes.confirm(
            self._who, server_id, request_id=root.world.ids.request_id()
        )
        self._resized.remove(server_id)
        self._region.events.tell("confirmed", tenant=self.name, server=server_id)

    async def _revert(self, root: Root) -> None:
        server_id = self._one_of(tuple(self._resized))
        await root.service.resizes.revert(
            self._who, server_id, request_id=root.world.ids.request_id()
        )
        self._resized.remove(server_id)
        self._region.events.tell("reverted", tenant=self.name, server=server_id)

    async def _image(self, root: Root) -> None:
        server_id = self._any_server()
        image_id = await root.service.images.create(
            self._who,
            server_id,
            name="image",
            metadata={},
            request_id=root.world.ids.request_id(),
        )
        self._region.events.tell("imaged", tenant=self.name, server=server_id, image=image_id)

    async def _rebuild(self, root: Root) -> None:
        server_id = self._any_server()
        wanted = _Rebuild(self._one_of((SMALL.id, LARGE.id)), root.world.ids.secret(9))
        await root.service.rebuilds.rebuild(
            self._who, server_id, wanted, request_id=root.world.ids.request_id()
        )
        self._region.events.tell("rebuilt", tenant=self.name, server=server_id)

    async def _show(self, root: Root) -> None:
        server_id = self._any_server()
        view = await root.service.servers.show(self._who, server_id)
        if view.server.id != server_id:
            raise WrongAnswer(f"server {view.server.id} was shown for {server_id}")

    async def _list(self, root: Root) -> None:
        """Read a list page by page."""
        wanted = ServerFilter(
            project_id=self.name,
            statuses=self._one_of((None, None, ("ACTIVE",), ("ERROR", "BUILD"))),
        )
        limit = self._one_of(PAGE_LIMITS)
        sort = (("created_at", True), ("id", True))
        seen: list[tuple[float, str]] = []
        marker = None
        while True:
            page = Page(limit=limit, marker=marker, sort=sort)
            found = await root.service.servers.list(wanted, page)
            for view in found[:limit]:
                if view.server.project_id != self.name:
                    raise WrongAnswer(f"{self.name} was shown a server of {view.server.project_id}")
                seen.append((view.server.created_at, view.server.id))
            if len(found) <= limit:
                break
            marker = found[limit - 1].server.id
            await root.world.clock.sleep(0.1)
        if seen != sorted(set(seen), reverse=True):
            raise WrongAnswer(f"a list in pages of {limit} is not in order: {seen}")

    def _any_server(self) -> str:
        return self._one_of(tuple(self._servers))

    def _one_of(self, choices: tuple[T, ...]) -> T:
        return choices[self._ids.below(len(choices))]


def list_living(tx: Tx, cell_id: str) -> list[tuple[str, str]]:
    """List what the root gave to a cell, with whose it is. Transaction function."""
    asked = sa.select(servers.c.id, servers.c.project_id).where(
        servers.c.cell_id == cell_id, servers.c.deleted_at.is_(None)
    )
    return sorted((row.id, row.project_id) for row in tx.all(asked))
