"""Garbage collection as a task of the server: one SR at a time, behind everyone's back.

It runs some seconds after a change that may leave something behind, when a disk is no longer in
use, and once when an SR is attached. What fails is logged, and tried again at the next of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenith.core.log import logger
from xenith.toolstack.backends import BackendError
from xenith.toolstack.storage import records

if TYPE_CHECKING:
    from xenith.toolstack.server import HostServer

_log = logger("toolstack.storage")
#: Seconds between two bounded parts of a collection, in which guests have the disk to themselves.
_REST_S = 0.05


def tidy(host: HostServer, sr: str) -> None:
    """Have an SR collected soon. Safe to repeat: many changes are one collection."""
    holder = host.storage.holder(sr)
    if holder is None or not _is_wanted(host, sr):
        return
    storage = holder.own_storage
    storage.untidy[sr] = None
    if storage.tidying is None or storage.tidying.done():
        storage.tidying = holder.tasks.start("collect", _collect_all(holder))


async def _collect_all(host: HostServer) -> None:
    storage = host.own_storage
    while storage.untidy:
        await host.world.clock.sleep(storage.collect_delay_s)
        for sr in tuple(storage.untidy):
            del storage.untidy[sr]
            try:
                await _collect(host, sr)
            except (BackendError, OSError) as error:
                _log.warning("garbage collection failed", sr=sr, error=repr(error))


async def _collect(host: HostServer, sr: str) -> None:
    while sr in host.own_storage.attached:
        done = await host.own_storage.get(sr).collect()
        if done.deleted or done.coalesced:
            await records.refresh(host, sr)
        if done.is_done:
            return
        await host.world.clock.sleep(_REST_S)


def _is_wanted(host: HostServer, sr: str) -> bool:
    # Source: sm's cleanup.py, SR.other_config gc and coalesce.
    config = host.objects.get("SR", sr)["other_config"]
    return "false" not in (config.get("gc", ""), config.get("coalesce", ""))
