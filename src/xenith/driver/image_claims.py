"""Who brings an image to a repository: a claim that all who have the repository can see.

Several drivers may have one SR: processes of a cell, or cells that share a pool. A claim is a key
of the SR's ``other_config``, which XenAPI adds once only, and names a task of the pool that its
holder touches for as long as it lives. Whoever finds a claim waits; when its task is not touched
any more, or is gone, the claim is dead, and the one who adds the next number takes over. A driver
that begins again knows at once that what it claimed before is dead.

A holder that was only slow is no harm: an image is whole by its own mark, so the worst that comes
of two holders is a second copy, which is swept up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from xenith.core.errors import Unavailable
from xenith.core.world import World
from xenith.driver.connection import HostConnection
from xenith.driver.names import claim_key, claims_by_image
from xenith.xapi import XapiFault

#: Seconds between two touches of a claim's task; and without one after which it is dead, seen in
#: so many looks at least, since whoever looks may have slept itself.
BEAT_S = 5.0
SILENCE_MAX_S = 30.0
SILENT_LOOKS = 5
_BEAT_KEY = "xenith-beat"


class ImageClaims:
    """Claims on the images of one host's repository.

    ``owner`` tells who claims; of one owner only one lives, so what another that was it has claimed
    is dead.
    """

    def __init__(self, world: World, line: HostConnection, *, owner: str) -> None:
        self._world = world
        self._line = line
        self._owner = owner
        #: What a claim's task last said, since when, and in how many looks.
        self._seen: dict[str, tuple[str, float, int]] = {}
        #: Tasks of claims made here, and of those that are still held: what is left of a call whose
        #: answer was lost, or of a release that did not reach the host, need not be waited for.
        self._made: set[str] = set()
        self._held: set[str] = set()

    async def take(self, image_id: str) -> str | None:
        """Claim an image; gives the claim, or None while somebody who lives has it.

        Raises:
            XapiFault: the host refuses.
            Unavailable: the host does not answer.
        """
        there = await self._claims_of(image_id)
        if await self._are_alive(there.values()):
            return None
        task: str = await self._line.call("task.create", f"xenith image {image_id}", self._owner)
        self._made.add(task)
        try:
            number = max(there, default=0) + 1
            key = claim_key(image_id, number)
            await self._line.call("SR.add_to_other_config", self._sr, key, task)
        except XapiFault as fault:
            await self._forget_task(task)
            if fault.code != "MAP_DUPLICATE_KEY":
                raise
            return None
        held = await self._claims_of(image_id)
        if held != {number: task} | {n: dead for n, dead in there.items() if n in held}:
            # Somebody else claimed between our two looks: neither may be sure.
            await self._remove(image_id, {number: task})
            return None
        self._held.add(task)
        await self._remove(image_id, there)
        return task

    async def release(self, image_id: str, task: str) -> None:
        """Give a claim back, as far as the host lets us; what stays is dead."""
        self._held.discard(task)
        with suppress(XapiFault, Unavailable):
            there = await self._claims_of(image_id)
            await self._remove(image_id, {n: one for n, one in there.items() if one == task})

    async def keep(self, task: str) -> None:
        """Touch a claim's task for good, so that others see that its holder lives."""
        beat = 0
        while True:
            beat += 1
            # A host that is away, or has lost the task, has no claim to keep either.
            with suppress(XapiFault, Unavailable):
                await self._line.call("task.remove_from_other_config", task, _BEAT_KEY)
                await self._line.call("task.add_to_other_config", task, _BEAT_KEY, str(beat))
            await self._world.clock.sleep(BEAT_S)

    async def sweep(self) -> set[str]:
        """Forget claims that are dead; tell the images of the others: somebody is bringing them."""
        found: set[str] = set()
        for image_id, claims in claims_by_image(await self._marks()).items():
            if await self._are_alive(claims.values()):
                found.add(image_id)
            else:
                await self._remove(image_id, claims)
        return found

    async def _are_alive(self, tasks: Iterable[str]) -> bool:
        """Tell whether one of some claims is alive; looks at each."""
        return any([await self._is_alive(task) for task in tasks])

    async def _is_alive(self, task: str) -> bool:
        if task in self._made:
            return task in self._held
        try:
            record = await self._line.call("task.get_record", task)
        except XapiFault as fault:
            if fault.code != "HANDLE_INVALID":
                raise
            self._seen.pop(task, None)
            return False
        if record["name_description"] == self._owner:
            return False
        said = record["other_config"].get(_BEAT_KEY, "")
        now = self._world.clock.monotonic()
        before, since, looks = self._seen.get(task, (None, now, 0))
        if said != before:
            since, looks = now, 0
        self._seen[task] = (said, since, looks + 1)
        return now - since < SILENCE_MAX_S or looks < SILENT_LOOKS

    @property
    def _sr(self) -> str:
        return self._line.places.sr

    async def _claims_of(self, image_id: str) -> dict[int, str]:
        return claims_by_image(await self._marks()).get(image_id, {})

    async def _marks(self) -> Mapping[str, str]:
        marks: Mapping[str, str] = await self._line.call("SR.get_other_config", self._sr)
        return marks

    async def _remove(self, image_id: str, claims: Mapping[int, str]) -> None:
        for number, task in claims.items():
            key = claim_key(image_id, number)
            await self._line.call("SR.remove_from_other_config", self._sr, key)
            await self._forget_task(task)

    async def _forget_task(self, task: str) -> None:
        self._seen.pop(task, None)
        with suppress(XapiFault, Unavailable):
            await self._line.call("task.destroy", task)
        self._made.discard(task)
