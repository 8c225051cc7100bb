"""Cells that come into a simulated region and go from it while tenants use it.

    expected ─ token ─► joined, closed ─ test ─► open ─ some time ─► draining ─ empty ─► removed

Each step is the operation that ``xenith cell`` asks for, made again until it is answered, as an
operator would. What came may stay; one of the first cells may go. ``finish`` waits until nothing is
half in or half out, which once all faults have ended must come soon.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from xenith.cells import joining
from xenith.cells import topology as documents
from xenith.cells.keys import CellKey
from xenith.compute.operations.cell_edits import AddBody, CellEdits, ChangeBody, JoinBody
from xenith.compute.operations.smoke_test import SmokeBody, SmokeTest
from xenith.core.errors import Forbidden, NotFound, XenithError
from xenith.dev.cells import Root
from xenith.dev.simulation.images import SMALL
from xenith.dev.simulation.owner import ProcessDied
from xenith.dev.simulation.region import CellPlace, Region
from xenith.dev.simulation.workload import Workload, list_living
from xenith.http import Principal

T = TypeVar("T")

#: Cells that come in one run.
NEWCOMERS_MAX = 4
#: Seconds between two comings or goings, on average.
PAUSE_S = 12.0
#: Seconds that a new cell is open before it goes, at least and at most.
STAY_S = (5.0, 35.0)
#: Share of those that came that go again, and of the runs in which one of the first cells goes.
GOES_SHARE = 0.7
FIRST_GOES_SHARE = 0.5
#: Seconds that an operator waits for an answer; a test has its own time within it.
PATIENCE_S = 60.0
TEST_TIMEOUT_S = 20.0
#: Tests of a new cell before it is given up, and goes without having been open.
TESTS_MAX = 4
#: Seconds between two tries.
AGAIN_S = 2.0
#: Seconds in which all that is half done is done once no fault is left.
FINISH_S = 600.0

_OPERATOR = Principal(
    user_id="operator",
    user_name="operator",
    user_domain_id="default",
    roles=frozenset({"admin", "member", "reader"}),
    project_id="operator",
)


class Turnover:
    """``work`` goes on until it is cancelled; what it began, until it is done."""

    def __init__(self, region: Region, workload: Workload, group: asyncio.TaskGroup) -> None:
        self._region = region
        self._workload = workload
        self._group = group
        self._ids = region.simulation.ids("turnover")
        self._tasks: list[asyncio.Task[None]] = []
        self._is_ending = asyncio.Event()
        #: What was done, and what came of it.
        self.counts: Counter[str] = Counter()

    async def work(self) -> None:
        """Have one cell after the other come, and perhaps one of the first go."""
        first = self._ids.below(NEWCOMERS_MAX)
        for number in range(1, NEWCOMERS_MAX + 1):
            await asyncio.sleep(2 * PAUSE_S * self._ids.uniform())
            if number - 1 == first and self._ids.uniform() < FIRST_GOES_SHARE:
                leaves = self._region.leaves
                self._begin(self._go(leaves[self._ids.below(len(leaves))]))
            self._begin(self._come(f"n{number}"))

    async def finish(self) -> None:
        """Wait until nothing is half done.

        Raises:
            TimeoutError: something cannot be done although nothing fails any more.
        """
        self._is_ending.set()
        async with asyncio.timeout(FINISH_S):
            while self._tasks:
                await self._tasks.pop()

    def _begin(self, work: Awaitable[None]) -> None:
        async def do() -> None:
            await work

        self._tasks.append(self._group.create_task(do(), name="turnover"))

    # -- in

    async def _come(self, name: str) -> None:
        goes = self._ids.uniform() < GOES_SHARE
        stay_s = STAY_S[0] + (STAY_S[1] - STAY_S[0]) * self._ids.uniform()
        place = await self._join(name)
        is_good = await self._test(place)
        if is_good:
            await self._insist("open", place, self._changing(place, ChangeBody(state="open")))
        await self._rest(stay_s)
        if goes or not is_good:
            await self._go(place)

    async def _join(self, name: str) -> CellPlace:
        """Get a token and exchange it for a place; who lost the answer asks for another token."""
        seed = f"{self._region.simulation.seed} {name}".encode()
        key = CellKey.derive(hashlib.sha256(seed).digest())
        parents = self._draw_parents()

        async def add(root: Root) -> str:
            body = AddBody(name=name, parents=parents)
            added = await CellEdits(root.context).add(body, api_url="http://api.simulated")
            return str(added["token"])

        while True:
            token = joining.parse(await self._insist("add", None, add))
            body = JoinBody(
                secret=token.secret,
                signing_key=key.public.signing.hex(),
                sealing_key=key.public.sealing.hex(),
            )

            async def join(root: Root, body: JoinBody = body) -> dict[str, str]:
                return await CellEdits(root.context).join(body)

            try:
                joined = await self._insist("join", None, join, fatal=(Forbidden,))
            except Forbidden:
                continue
            signed = bytes.fromhex(joined["topology"])
            entry = documents.open_signed(signed, token.root).get(joined["cell_id"])
            self._tell("joined", cell=name, parents=",".join(entry.parents))
            return self._region.join(entry, key=key, signed=signed)

    def _draw_parents(self) -> tuple[str, ...]:
        """Choose one router or two, or the root itself."""
        names = [one.name for one in self._region.plan.routers]
        if self._ids.uniform() < 0.2 or not names:
            return ()
        first, second = (names[self._ids.below(len(names))] for _ in range(2))
        return tuple(dict.fromkeys((first, second)))

    async def _test(self, place: CellPlace) -> bool:
        """Run the smoke test until it passes; tell whether it did."""

        async def test(root: Root) -> object:
            return await SmokeTest(root.context).run(
                _OPERATOR,
                place.name,
                SmokeBody(image=SMALL.id, flavor="s", timeout_s=TEST_TIMEOUT_S),
                request_id=root.world.ids.request_id(),
            )

        for _ in range(TESTS_MAX):
            await self._rest(AGAIN_S)
            if await self._try("test", place, test) is not None:
                return True
        return False

    # -- out

    async def _go(self, place: CellPlace) -> None:
        """Empty a cell and take it out; others may have opened it again meanwhile."""

        async def remove(root: Root) -> bool:
            try:
                await CellEdits(root.context).remove(place.id, is_forced=False)
            except NotFound:
                # It was removed when the answer was lost.
                assert root.node.topology.find(place.id) is None, "it would be found"
            return True

        while True:
            await self._insist("drain", place, self._changing(place, ChangeBody(state="draining")))
            await self._workload.leave(place.id)
            await self._delete_own(place)
            await self._rest(AGAIN_S)
            if await self._try("remove", place, remove):
                break
        # Its machines are switched off some time after.
        await self._rest(10 * self._ids.uniform())
        self._tell("removed", cell=place.name)
        self._region.leave(place)

    async def _delete_own(self, place: CellPlace) -> None:
        """Delete what tests left behind whose end was never seen."""
        for server_id, project_id in await self._region.root.observer.read(list_living, place.id):
            if project_id != _OPERATOR.project_id:
                continue

            async def delete(root: Root, server_id: str = server_id) -> bool:
                request_id = root.world.ids.request_id()
                await root.service.servers.delete(_OPERATOR, server_id, request_id=request_id)
                return True

            await self._try("delete", place, delete)

    # -- asking

    def _changing(self, place: CellPlace, body: ChangeBody) -> Callable[[Root], Awaitable[str]]:
        async def change(root: Root) -> str:
            return await CellEdits(root.context).change(place.id, body)

        return change

    async def _insist(
        self,
        name: str,
        place: CellPlace | None,
        thing: Callable[[Root], Awaitable[T]],
        *,
        fatal: tuple[type[XenithError], ...] = (),
    ) -> T:
        while (found := await self._try(name, place, thing, fatal=fatal)) is None:
            await self._rest(AGAIN_S)
        return found

    async def _try(
        self,
        name: str,
        place: CellPlace | None,
        thing: Callable[[Root], Awaitable[T]],
        *,
        fatal: tuple[type[XenithError], ...] = (),
    ) -> T | None:
        where = "" if place is None else place.name
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await self._region.call(thing)
        except fatal:
            raise
        except XenithError as error:
            self.counts[f"{name} {type(error).__name__}"] += 1
            self._region.events.tell(f"operator: no {name}", cell=where, error=error.message)
        except (ProcessDied, TimeoutError):
            self.counts[f"{name} unanswered"] += 1
        else:
            self._tell(name, cell=where)
            return found
        return None

    def _tell(self, name: str, **fields: str) -> None:
        self.counts[name] += 1
        self._region.events.tell(f"operator: {name}", **fields)

    async def _rest(self, delay_s: float) -> None:
        """Wait; not for long once all is to come to its end."""
        try:
            async with asyncio.timeout(delay_s):
                await self._is_ending.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(delay_s, AGAIN_S))
