"""Whose disk a host gives next: a few at a time, and every project in its turn.

Images of servers are streamed from hosts that have guests to serve. Only in memory: a process that
begins anew lets those begin first that it finds.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
        #: The host that each who has a place has it of.
        self._held: dict[str, str] = {}

    async def take(self, host_id: str, project_id: str, holder: str) -> None:
        """Take one of a host's places, when there is one; who has one keeps it."""
        if holder in self._held:
            return
        host = self._hosts.setdefault(host_id, _Host())
        if host.running_count < EXPORTS_PER_HOST_MAX and not host.waiting:
            host.running_count += 1
        else:
            await self._wait(host_id, host, project_id)
        self._held[holder] = host_id

    def give_back(self, holder: str) -> None:
        """Let the next have the place of one who may have none."""
        host_id = self._held.pop(holder, None)
        if host_id is not None:
            self._hosts[host_id].running_count -= 1
            self._go_on(host_id)

    async def _wait(self, host_id: str, host: _Host, project_id: str) -> None:
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
            self._go_on(host_id)
            raise

    @staticmethod
    def _leave(host: _Host, project_id: str, ready: asyncio.Future[None]) -> None:
        queue = host.waiting.get(project_id)
        if queue is not None and ready in queue:
            queue.remove(ready)
            if not queue:
                del host.waiting[project_id]

    def _go_on(self, host_id: str) -> None:
        host = self._hosts.get(host_id)
        if host is None:
            # Who was passed over as it left has nothing to hand on.
            return
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
        if not host.running_count and not host.waiting:
            del self._hosts[host_id]
