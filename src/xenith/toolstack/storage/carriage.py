"""Disks that go from one repository to another under the name that they have."""

from __future__ import annotations

import contextlib

from xenith.toolstack.backends import Repository
from xenith.toolstack.backends.sim_disks import SimRepository


async def carry(vdi_uuid: str, source: Repository, into: Repository, *, size_bytes: int) -> None:
    """Make a disk in a repository of one that lies in another, whole and without a parent.

    The other stays until it is destroyed there; nobody may write to it meanwhile.
    """
    if isinstance(source, SimRepository) and isinstance(into, SimRepository):
        # There are no bytes that could tell what it takes.
        await into.take(vdi_uuid, source)
        return
    await into.create(vdi_uuid, size_bytes)
    try:
        async with contextlib.aclosing(source.read(vdi_uuid, "vhd")) as pieces:
            await into.fill(vdi_uuid, "vhd", pieces)
    except BaseException:
        await into.destroy(vdi_uuid)
        raise
