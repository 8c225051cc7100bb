"""Images brought to hosts before a build asks for them. Source: nova, image pre-caching."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from xenith.compute.hosts import CellHosts
from xenith.core.errors import XenithError
from xenith.core.ids import HostId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner

_log = logger("compute.precaching")

#: Hosts of a cell to which images are brought at a time, so that builds have the line too.
HOSTS_MAX = 4


class Precaching:
    """What one cell was asked to bring; it is forgotten when the process ends."""

    def __init__(self, hosts: CellHosts, tasks: TaskOwner) -> None:
        self._hosts = hosts
        self._tasks = tasks
        self._turns = asyncio.Semaphore(HOSTS_MAX)

    def begin(self, host_ids: Sequence[str], images: Sequence[Mapping[str, Any]]) -> None:
        """Have images brought to hosts, one after the other on each; does not wait for it."""
        for host_id in host_ids:
            self._tasks.start(f"precache {host_id}", self._bring(HostId(host_id), images))

    async def _bring(self, host_id: HostId, images: Sequence[Mapping[str, Any]]) -> None:
        async with self._turns:
            for image in images:
                try:
                    await self._hosts.up_driver(host_id).ensure_image(
                        image["id"],
                        disk_format=image["disk_format"],
                        size_bytes=image["size_bytes"],
                    )
                except XenithError as error:
                    _log.warning(
                        "image not cached", host=host_id, image=image["id"], error=str(error)
                    )
