"""Whose disk a host gives next: a few at a time, and every project in its turn.

Images of servers are streamed from hosts that have guests to serve. Only in memory: a process that
begins anew lets those begin first that it finds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

#: Disks that one host gives at a time.
EXPORTS_PER_HOST_MAX = 2


@dataclass(slots=True)
class _Host:
    running_count: int = 0
    #: Those that wait, by project; the project whose turn it is stands first.
    waiting: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict)


class ExportTurns:
    """The turns of all hosts of a cell."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host_id: str, project_id: str) -> AsyncIterator[None]:
        """Hold one of a host's places for the length of the block; wait until there is one."""
        host = self._hosts.setdefault(host_id, _Host())
        if host.running_count < EXPORTS_PER_HOST_MAX and not host.waiting:
            host.running_count += 1
        else:
            await self._wait(host, project_id)
        try:
            yield
        finally:
            host.running_count -= 1
            self._go_on(host)
            if not host.running_count and not host.waiting:
                self._hosts.pop(host_id, None)

    async def _wait(self, host: _Host, project_id: str) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        host.waiting.setdefault(project_id, deque()).append(ready)
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled():
                # The place was given to it just now, and is the next one's.
                host.running_count -= 1
            else:
                self._leave(host, project_id, ready)
            self._go_on(host)
            raise

    @staticmethod
    def _leave(host: _Host, project_id: str, ready: asyncio.Future[None]) -> None:
        queue = host.waiting.get(project_id)
        if queue is not None and ready in queue:
            queue.remove(ready)
            if not queue:
                del host.waiting[project_id]

    @staticmethod
    def _go_on(host: _Host) -> None:
        while host.running_count < EXPORTS_PER_HOST_MAX and host.waiting:
            project_id, queue = next(iter(host.waiting.items()))
            del host.waiting[project_id]
            ready = queue.popleft()
            if queue:
                # Behind the others that wait.
                host.waiting[project_id] = queue
            if not ready.done():
                host.running_count += 1
                ready.set_result(None)
