"""A cell's hosts: a driver for each, and the scheduler's table kept in step with them.

Rows say which hosts there are; drivers say whether they are up and what they have; the table is
what both come to, and what claims are made against.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.compute.operations.context import Seal
from xenith.compute.records import hosts as rows
from xenith.compute.records.claims import claim_host, host_claims
from xenith.compute.records.instances import allocations, instances
from xenith.core.errors import Conflict, Exhausted, NotFound, Unavailable
from xenith.core.ids import HostId, InstanceId, ProjectId
from xenith.core.log import logger
from xenith.core.world import World
from xenith.db import Database, Row, Tx
from xenith.driver import HostAddress, HostDriver
from xenith.scheduler.choose import NoValidHost, Placement, choose
from xenith.scheduler.filters import FILTERS, IO_OPS_PER_HOST_MAX
from xenith.scheduler.hosts import Claim, Host, HostTable
from xenith.scheduler.profile import HostProfile
from xenith.scheduler.request import PlacementRequest

_log = logger("compute.hosts")

_BUILDING = sa.select(instances.c.id).where(instances.c.task_state == "spawning")
_UNBUILT = sa.select(instances.c.id).where(instances.c.vm_state == "building")

#: What a host must have for a build to be accepted; the rest passes by itself.
_LASTING = tuple(each for each in FILTERS if not each.is_transient)

#: Reads of a host's claims before a host that changes all the time is left for later.
LOOKS_MAX = 5

#: Seconds given to all hosts together to answer before the first choice is made.
FIRST_ANSWER_S = 5.0


class CellHosts:
    """The hosts of one compute cell."""

    def __init__(
        self,
        db: Database,
        world: World,
        seal: Seal,
        *,
        open_image: Callable[[str], AsyncIterator[bytes]],
        on_power: Callable[[str, str, str], None],
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
        cell_number: int = 0,
    ) -> None:
        self._db = db
        self._on_down = on_down
        self._cell_number = cell_number
        self._world = world
        self._seal = seal
        self._open_image = open_image
        self._on_power = on_power
        self._on_up = on_up
        self.table = HostTable()
        self.drivers: dict[HostId, HostDriver] = {}
        self.rows: dict[HostId, Row] = {}
        self._waiting: deque[asyncio.Future[int]] = deque()
        #: This run, as claims name it, and as of which count of claims each host is in the table.
        self.claimant = world.ids.hex()
        self._generations: dict[str, int] = {}
        #: Instances with a claim in the table that no transaction has written yet, and whether the
        #: rows have a smaller one.
        self._unwritten: dict[str, bool] = {}
        #: Doubtful commits that the table, and each host in it, was compared after.
        self._doubts = db.doubts
        self._looked: dict[str, int] = {}
        #: Builds that were in flight when this began: another process may have ended them since.
        self._inherited: set[str] = set()

    async def start(self) -> None:
        """Load hosts and claims, connect, and wait a little for first answers."""
        known = await self._db.read(lambda tx: tx.list(rows.hosts, is_removed=False))
        # One that was added before the start has its driver.
        await asyncio.gather(*(self._open(row) for row in known if row.id not in self.drivers))
        building, held, claims = await self._db.read(_read_claims)
        for row in held:
            self.adopt(row, is_building=row.instance_id in building)
        self._generations = claims
        self._inherited = building
        try:
            async with asyncio.timeout(FIRST_ANSWER_S):
                await asyncio.gather(*(driver.answered() for driver in self.drivers.values()))
        except TimeoutError:
            silent = [driver.address.name for driver in self.drivers.values() if not driver.is_up]
            _log.warning("hosts are silent at start", hosts=silent[:10], host_count=len(silent))

    async def stop(self) -> None:
        """Let go of every host."""
        await asyncio.gather(*(driver.stop() for driver in self.drivers.values()))

    # -- hosts

    async def add(self, *, name: str, url: str, user: str, password: str, zone: str) -> HostId:
        """Take a host into the cell; one with the same address is updated.

        Raises:
            Conflict: another host has the name.
        """
        host_id = await self._db.run(
            self._write, name, url, user, self._seal.close(password.encode()), zone
        )
        driver = self.drivers.pop(host_id, None)
        if driver is not None:
            await driver.stop()
        row = await self._db.read(lambda tx: tx.get(rows.hosts, id=host_id))
        await self._open(row)
        return host_id

    def _write(self, tx: Tx, name: str, url: str, user: str, sealed: bytes, zone: str) -> HostId:
        now = self._world.clock.now()
        known = tx.find(rows.hosts, url=url)
        if known is not None:
            back = {"is_removed": False, "name": name} if known.is_removed else {}
            rows.change_host(tx, known.id, now_s=now, user=user, sealed_password=sealed, **back)
            return HostId(known.id)
        if tx.find(rows.hosts, name=name) is not None:
            raise Conflict(f"a host named {name} exists at another address", name=name)
        host_id = HostId(self._world.ids.uuid())
        rows.insert_host(
            tx,
            {
                "id": host_id,
                "service_id": self._world.ids.uuid(),
                "name": name,
                "url": url,
                "user": user,
                "sealed_password": sealed,
                "zone": zone,
                "is_enabled": True,
                "disabled_reason": None,
                "is_forced_down": False,
                "is_up": False,
                "down_reason": "not yet connected",
                "facts": None,
                "created_at": now,
                "updated_at": now,
                "is_removed": False,
            },
            cell_number=self._cell_number,
        )
        return host_id

    async def change(self, host_id: HostId, values: dict[str, Any]) -> None:
        """Change what an operator says of a host: zone, enabled, forced down, taken out.

        Raises:
            NotFound: the cell has no such host.
            Conflict: it is to be taken out, or to another zone, and has servers.
        """
        row = await self._db.run(self._change, host_id, values)
        if row.is_removed:
            await self._drop(host_id)
            return
        self.rows[host_id] = row
        self.table.update(self._described(row))
        self.wake_waiting()

    def _change(self, tx: Tx, host_id: HostId, values: dict[str, Any]) -> Row:
        row = tx.find(rows.hosts, id=host_id, is_removed=False)
        if row is None:
            raise NotFound(f"host {host_id} is not in this cell")
        moves = values.get("is_removed") or values.get("zone", row.zone) != row.zone
        if moves and tx.list(allocations, host_id=host_id):
            raise Conflict(f"Host {row.name} has servers: move them first.")
        if values.get("is_removed"):
            # The row stays for the parents to learn of; its name is free for another host.
            values = {**values, "name": f"{row.name}~{host_id}"}
        return rows.change_host(tx, host_id, now_s=self._world.clock.now(), **values)

    async def _drop(self, host_id: HostId) -> None:
        """Let go of a host that an operator took out."""
        self.rows.pop(host_id, None)
        driver = self.drivers.pop(host_id, None)
        if driver is not None:
            await driver.stop()
        if host_id in self.table and not self.table.list_instances(host_id):
            self.table.remove(host_id)
        elif host_id in self.table:
            self.table.set_enabled(host_id, is_enabled=False)

    def driver(self, host_id: str) -> HostDriver:
        """Get the driver of a host.

        Raises:
            NotFound: the cell has no such host.
        """
        driver = self.drivers.get(HostId(host_id))
        if driver is None:
            raise NotFound(f"host {host_id} is not in this cell")
        return driver

    async def _open(self, row: Row) -> None:
        host_id = HostId(row.id)
        self.rows[host_id] = row
        address = HostAddress(
            id=row.id,
            name=row.name,
            url=row.url,
            user=row.user,
            password=self._seal.open(row.sealed_password).decode(),
        )
        driver = HostDriver(
            self._world,
            address,
            on_power=self._on_power,
            on_state=self._on_state,
            open_image=self._open_image,
        )
        self.drivers[host_id] = driver
        described = self._described(row)
        if host_id in self.table:
            self.table.update(described)
        else:
            self.table.add(described)
        await driver.start()

    def _described(self, row: Row) -> Host:
        facts: dict[str, Any] = row.facts or {}
        driver = self.drivers.get(HostId(row.id))
        return Host(
            id=HostId(row.id),
            name=row.name,
            ram_mib=facts.get("memory_mib", 0),
            vcpus=facts.get("cpus", 0),
            disk_gib=facts.get("disk_gib", 0),
            is_enabled=row.is_enabled,
            is_up=driver is not None and driver.is_up and not row.is_forced_down,
            availability_zone=row.zone,
            profile=HostProfile(),
        )

    def _on_state(self, host_id: str, is_up: bool) -> None:
        """Hear from a driver that its host came or went."""
        known = HostId(host_id)
        driver = self.drivers.get(known)
        row = self.rows.get(known)
        if driver is None or row is None:
            return
        if is_up and driver.facts is not None:
            facts = msgspec.to_builtins(driver.facts)
            if facts != row.facts:
                row = row._replace(facts=facts)
                self.rows[known] = row
        self.table.update(self._described(row))
        if is_up:
            self._on_up(host_id)
        else:
            self._on_down(host_id)
        self.wake_waiting()

    async def keep_facts(self, host_id: str) -> None:
        """Write what a host said of itself and whether it is up, for lists and the next start."""
        row, driver = self.rows.get(HostId(host_id)), self.drivers.get(HostId(host_id))
        if row is None or driver is None:
            return
        is_up = driver.is_up
        down_reason = "" if is_up else driver.down_reason
        await self._db.run(
            lambda tx: rows.change_host(
                tx,
                row.id,
                now_s=self._world.clock.now(),
                facts=row.facts,
                is_up=is_up,
                down_reason=down_reason,
            )
        )

    # -- claims

    def adopt(self, allocation: Row, *, is_building: bool = False) -> None:
        """Take an allocation's row over into the table."""
        index = self.table.find_index(HostId(allocation.host_id))
        if index is None:
            return
        self.table.adopt(
            index,
            PlacementRequest(
                instance_id=InstanceId(allocation.instance_id),
                project_id=ProjectId(allocation.project_id),
                ram_mib=allocation.ram_mib,
                vcpus=allocation.vcpus,
                disk_gib=allocation.disk_gib,
                group_id=allocation.group_id,
            ),
            is_building=is_building,
        )

    def reserve(self, request: PlacementRequest) -> Placement | NoValidHost:
        """Choose a host and claim it in the table, for a build that begins later.

        Builds in flight do not count against a host here: they end by themselves.
        """
        result = choose(self.table, request, ids=self._world.ids, filters=_LASTING)
        if isinstance(result, Placement):
            self.table.claim(result.indices[0], request, is_building=False)
            self._unwritten[request.instance_id] = False
        return result

    def grow(self, instance_id: str, *, ram_mib: int, vcpus: int, disk_gib: int) -> Claim | None:
        """Have an instance hold at least this much in the table; give what it held before.

        None when it holds no claim.

        Raises:
            Exhausted: its host has no room for what it would hold more, or is not up.
        """
        claim = self.table.find_claim(InstanceId(instance_id))
        if claim is None:
            return None
        index = claim.host_index
        for what, more, free in (
            ("memory", ram_mib - claim.ram_mib, int(self.table.ram_free[index])),
            ("processors", vcpus - claim.vcpus, int(self.table.vcpus_free[index])),
            ("disk", disk_gib - claim.disk_gib, int(self.table.disk_free[index])),
        ):
            if 0 < more > free:
                raise Exhausted(f"host {self.table.names[index]} lacks {more - free} of {what}")
        if not self.table.is_up[index]:
            raise Exhausted(f"host {self.table.names[index]} is not up")
        self._unwritten[instance_id] = True
        return self.table.resize(
            InstanceId(instance_id),
            ram_mib=max(ram_mib, claim.ram_mib),
            vcpus=max(vcpus, claim.vcpus),
            disk_gib=max(disk_gib, claim.disk_gib),
        )

    def follow_allocation(self, allocation: Row | Claim, instance_id: str) -> None:
        """Have the table say what an allocation does; safe to repeat."""
        self._unwritten.pop(instance_id, None)
        self.table.resize(
            InstanceId(instance_id),
            ram_mib=allocation.ram_mib,
            vcpus=allocation.vcpus,
            disk_gib=allocation.disk_gib,
        )
        self.wake_waiting()

    def write_claim(self, tx: Tx, allocation: Mapping[str, Any]) -> bool:
        """Write a claim that the table has; False when it must look at the host again before.

        Another scheduler claimed there first, or a commit's outcome is in doubt.
        Transaction function.
        """
        host_id = str(allocation["host_id"])
        if self._is_doubted(host_id):
            # A claim of our own may stand there that the table does not have.
            return False
        seen = self._generations.get(host_id, 0)
        generation = claim_host(tx, allocation, claimant=self.claimant, seen=seen)
        instance_id = str(allocation["instance_id"])

        def follow() -> None:
            if generation is None:
                return
            self._unwritten.pop(instance_id, None)
            # Between this claim and the one before it others may have given something back.
            if generation == self._generations.get(host_id, 0) + 1:
                self._generations[host_id] = generation

        tx.on_commit(follow)
        return generation is not None

    async def look_again(self, host_id: str) -> bool:
        """Read a host's claims anew: others claim there, or the table may have missed a commit.

        False where the host changed at each look, and is to be looked at later.
        """
        for _ in range(LOOKS_MAX):
            index = self.table.find_index(HostId(host_id))
            as_of = None if index is None else int(self.table.generation[index])
            doubts = self._db.doubts
            unwritten = dict(self._unwritten)
            held, generation = await self._db.read(_read_host_claims, host_id)
            if index is None:
                return True
            if index == self.table.find_index(HostId(host_id)) and (
                int(self.table.generation[index]) == as_of
            ):
                self._follow_claims(host_id, held, unwritten | self._unwritten)
                self._generations[host_id] = generation
                self._looked[host_id] = doubts
                self.wake_waiting()
                return True
        return False

    def _is_doubted(self, host_id: str) -> bool:
        return self._looked.get(host_id, self._doubts) != self._db.doubts

    def _follow_claims(self, host_id: str, held: list[Row], unwritten: Mapping[str, bool]) -> None:
        """Have the table say of a host what its rows do; ``unwritten`` is not in rows yet."""
        wanted = {row.instance_id for row in held}
        for instance_id in self.table.list_instances(HostId(host_id)):
            if instance_id not in wanted and instance_id not in unwritten:
                self.table.release(instance_id)
        index = self.table.find_index(HostId(host_id))
        for row in held:
            claim = self.table.find_claim(row.instance_id)
            if claim is not None and claim.host_index != index:
                # It was let go there by another scheduler, and has come back to this host.
                self.release(row.instance_id)
                claim = None
            if claim is None:
                self.adopt(row)
            elif not unwritten.get(row.instance_id):
                # One that this scheduler was about to write, another has written.
                self.follow_allocation(row, row.instance_id)

    async def compare_claims(self) -> int:
        """Read the claims of hosts whose table may be behind; tell how many hosts those are.

        Another scheduler was there; or a commit's outcome was in doubt, and any may be.
        """
        doubts = self._db.doubts
        if doubts != self._doubts or self._inherited:
            await self._end_builds(self.table.list_building())
        rows_now = await self._db.read(lambda tx: tx.list(host_claims))
        changed = [
            row for row in rows_now if row.generation != self._generations.get(row.host_id, 0)
        ]
        strange = {row.host_id for row in changed if row.claimant != self.claimant}
        # There nobody has claimed since this did, and something was given back, by whomever.
        freed = {row.host_id for row in changed} - strange
        if doubts != self._doubts:
            strange.update(self.rows)
        if all([await self.look_again(host_id) for host_id in sorted(strange | freed)]):
            self._doubts = doubts
        return len(strange)

    async def _end_builds(self, counted: AbstractSet[InstanceId]) -> None:
        """Stop counting builds in flight that the rows say have ended."""
        unbuilt = await self._db.read(lambda tx: {row.id for row in tx.all(_UNBUILT)})
        for instance_id in counted - unbuilt:
            self.table.finish_build(instance_id)
        self._inherited &= unbuilt
        self.wake_waiting()

    async def begin(self, instance_id: str) -> None:
        """Wait until the host that an instance has a claim on takes another build.

        Raises:
            NotFound: it has no claim.
        """
        looks = 0
        while True:
            claim = self.table.find_claim(InstanceId(instance_id))
            if claim is None:
                claim = await self._find_written(instance_id)
            if claim is None:
                raise NotFound(f"instance {instance_id} holds no claim")
            if self.table.io_ops[claim.host_index] < IO_OPS_PER_HOST_MAX:
                self.table.begin_build(InstanceId(instance_id))
                return
            if looks > 1:
                self._wake_one(looks - 1)
            looks = await self._turn()

    async def _find_written(self, instance_id: str) -> Claim | None:
        """Take over the claim that another scheduler has written of an instance, if one has."""
        held = await self._db.read(lambda tx: tx.find(allocations, instance_id=instance_id))
        if held is not None and self.table.find_claim(InstanceId(instance_id)) is None:
            self.adopt(held)
        return self.table.find_claim(InstanceId(instance_id))

    async def claim(self, request: PlacementRequest) -> Placement | NoValidHost:
        """Choose a host and claim it in the table; wait while only builds in flight are in the way.

        The caller writes the allocation, or releases.
        """
        instance_id = request.instance_id
        looks = 0
        while True:
            if self.table.find_claim(instance_id) is not None:
                # A saga resumed in the process that had claimed for it; begin anew.
                self.table.release(instance_id)
            result = choose(self.table, request, ids=self._world.ids)
            if isinstance(result, Placement):
                self.table.claim(result.indices[0], request)
                self._unwritten[instance_id] = False
                return result
            if not result.is_transient:
                return result
            if looks > 1:
                # The place that came free is not for this one; the next may have it.
                self._wake_one(looks - 1)
            looks = await self._turn()

    async def _turn(self) -> int:
        """Wait to be woken; tell how many of those that wait may look at what came free."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._wake_one(future.result())
            raise
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def release(self, instance_id: str, *, is_failure: bool = False) -> None:
        """Give an instance's claim back in the table; safe to repeat.

        ``is_failure``: the host did not build what was claimed for; others are tried before it.
        """
        self._unwritten.pop(instance_id, None)
        claim = self.table.find_claim(InstanceId(instance_id))
        if claim is not None:
            if is_failure:
                self.table.record_build_failure(claim.host_index)
            self.table.release(InstanceId(instance_id))
        self._wake_one(len(self._waiting))

    def is_unwritten(self, instance_id: str) -> bool:
        """Tell whether an instance has a claim in the table that may yet be written."""
        return instance_id in self._unwritten

    def abandon(self, instance_id: str) -> None:
        """Give a claim back that was never written; what is in the rows by now stays."""
        if instance_id in self._unwritten:
            self.release(instance_id)

    def finish_build(self, instance_id: str) -> None:
        """Stop counting a build in flight, and let the next one have its place."""
        claim = self.table.find_claim(InstanceId(instance_id))
        if claim is not None:
            self.table.clear_build_failures(claim.host_index)
        self.table.finish_build(InstanceId(instance_id))
        self._wake_one(len(self._waiting))

    def wake_waiting(self) -> None:
        """Let every choice that waits be made again."""
        for _ in range(len(self._waiting)):
            self._wake_one(1)

    def _wake_one(self, looks: int) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(looks)
                return

    def up_driver(self, host_id: str) -> HostDriver:
        """Get the driver of a host that is up.

        Raises:
            Unavailable: the host is down; the message says why.
        """
        driver = self.driver(host_id)
        if not driver.is_up:
            raise Unavailable(
                f"host {driver.address.name} is down: {driver.down_reason}", host_id=host_id
            )
        return driver


def _read_claims(tx: Tx) -> tuple[set[str], list[Row], dict[str, int]]:
    building = {row.id for row in tx.all(_BUILDING)}
    claims = {row.host_id: int(row.generation) for row in tx.list(host_claims)}
    return building, tx.list(allocations), claims


def _read_host_claims(tx: Tx, host_id: str) -> tuple[list[Row], int]:
    row = tx.find(host_claims, host_id=host_id)
    return tx.list(allocations, host_id=host_id), 0 if row is None else int(row.generation)
