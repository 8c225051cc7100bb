"""The compute cell: applies intents, chooses hosts, runs sagas, listens to hosts.

Everything that must be single in a cell is here. It starts by reading its rows; whatever an
earlier process had begun, the sagas resume. It is the executor of its node: a build is accepted by
claiming a host for it, and begins when the root has confirmed that this cell owns the server.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec

from xenith import saga
from xenith.cells import intents as kinds
from xenith.cells.capacity import ClassKey, Digest, histogram
from xenith.cells.changes import cell_self
from xenith.cells.intents import Intent, Verdict
from xenith.cells.keys import CellKey
from xenith.compute.export_turns import ExportTurns
from xenith.compute.hosts import CellHosts
from xenith.compute.imaging import IMAGE, accept_image
from xenith.compute.neighbours import ImageSource
from xenith.compute.operations.context import Seal
from xenith.compute.precaching import Precaching
from xenith.compute.rebuilding import REBUILD, accept_rebuild
from xenith.compute.reconcilers import (
    ClaimReconciler,
    ImageCacheReconciler,
    LeftoverReconciler,
    PowerReconciler,
)
from xenith.compute.records.actions import finish_event
from xenith.compute.records.claims import release_claim
from xenith.compute.records.instances import change_instance, insert_instance, instances
from xenith.compute.rescuing import RESCUE, UNRESCUE, accept_rescue, accept_unrescue
from xenith.compute.resizing import (
    RESIZE,
    REVERT_RESIZE,
    SIZES,
    Grown,
    abandon_resize,
    accept_size,
    end_by_hand,
    follow_rows,
    prepare_resize,
)
from xenith.compute.sagas.build import BUILD, placement_request
from xenith.compute.sagas.delete import DELETE
from xenith.compute.sagas.image import IMAGE_SAGA
from xenith.compute.sagas.power import POWER, write_power_found
from xenith.compute.sagas.rebuild import REBUILD_SAGA
from xenith.compute.sagas.rescue import RESCUE_SAGA
from xenith.compute.sagas.resize import RESIZE_SAGA, REVERT_SAGA
from xenith.compute.sagas.run import RUN
from xenith.compute.sagas.unrescue import UNRESCUE_SAGA
from xenith.compute.states import NOSTATE, POWER_NUMBERS, TRANSITIONS
from xenith.compute.storage import HostStorage
from xenith.core.errors import Invalid, NotFound, Unavailable, XenithError
from xenith.core.ids import CellId, HostId, InstanceId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import Database, Row, Tx
from xenith.reconcile import ReconcilerLoop
from xenith.saga import SagaEngine, list_of_subject
from xenith.saga.reconcilers import SagaPruning, StuckSagas
from xenith.scheduler.choose import Placement

_log = logger("compute.cell")

#: Requests of builds in flight that are kept in memory, so that a step does not read them again.
REQUESTS_KEPT_MAX = 2000
#: Seconds until what a database that was away did not take is written again.
WRITE_AGAIN_S = 1.0


SAGAS = {
    each.name: each
    for each in (
        BUILD,
        DELETE,
        IMAGE_SAGA,
        POWER,
        REBUILD_SAGA,
        RESCUE_SAGA,
        RUN,
        RESIZE_SAGA,
        REVERT_SAGA,
        UNRESCUE_SAGA,
    )
}


#: What is done of intents that need no more than the server's row.
_ACCEPTED = {
    IMAGE: accept_image,
    REBUILD: accept_rebuild,
    RESCUE: accept_rescue,
    UNRESCUE: accept_unrescue,
}
#: What a delete does not wait for the end of.
_CANCELLED = (
    "build",
    "power",
    "run",
    IMAGE,
    REBUILD,
    RESCUE,
    UNRESCUE,
    RESIZE,
    REVERT_RESIZE,
)


class _Reserved(msgspec.Struct, frozen=True):
    """What was found in memory for a build: a host with its claim, or why there is none."""

    request: dict[str, Any]
    placement: dict[str, Any] | None = None
    host_id: HostId | None = None
    reason: str = ""
    detail: str = ""


class ComputeCell:
    """One compute cell: its rows, its hosts and its sagas."""

    def __init__(
        self,
        db: Database,
        world: World,
        *,
        cell_id: CellId,
        key: CellKey,
        images: ImageSource,
        seal: Seal,
        cell_number: int = 0,
    ) -> None:
        self.db = db
        self.world = world
        self.cell_id = cell_id
        self.seal = seal
        self.images = images
        self._key = key
        self.hosts = CellHosts(
            db,
            world,
            seal,
            open_image=images.open_image,
            on_power=self._on_power,
            on_up=self._on_up,
            on_down=self._on_down,
            cell_number=cell_number,
        )
        self.engine: SagaEngine[ComputeCell] = SagaEngine(db, world, self, SAGAS)
        self._loop = ReconcilerLoop(
            world,
            [
                LeftoverReconciler(self),
                PowerReconciler(self),
                ClaimReconciler(self),
                ImageCacheReconciler(self),
                SagaPruning(db, world),
                StuckSagas(db, world),
            ],
        )
        self._tasks = TaskOwner("cell", world.clock)
        self._precaching = Precaching(self.hosts, self._tasks)
        self._storage = HostStorage(self)
        self.export_turns = ExportTurns()
        self._requests: dict[str, dict[str, Any]] = {}
        #: Has what is undecided looked at again.
        self.on_choice: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Load hosts and claims, then resume what was begun."""
        await self.hosts.start()
        await self.engine.start()
        self._loop.start()

    async def stop(self) -> None:
        """Stop; everything resumes from the rows in the next process."""
        await self._loop.stop()
        await self.engine.stop()
        await self._tasks.stop()
        await self.hosts.stop()

    # -- what steps need

    async def request_of(self, instance_id: str) -> dict[str, Any]:
        """Give what a build was asked to make.

        Raises:
            NotFound: the build has ended.
        """
        request = self._requests.get(instance_id)
        if request is None:
            row = await self.db.read(lambda tx: tx.find(instances, id=instance_id))
            if row is None or row.request is None:
                raise NotFound(f"server {instance_id} is not being built")
            request = row.request
            while len(self._requests) >= REQUESTS_KEPT_MAX:
                self._requests.pop(next(iter(self._requests)))
            self._requests[instance_id] = request
        return request

    def end_request(self, instance_id: str) -> None:
        """Let go of a build's request."""
        self._requests.pop(instance_id, None)

    def host_named(self, name: str) -> HostId:
        """Give the id of a host that an admin named.

        Raises:
            Invalid: there is none of that name.
        """
        for host_id, row in self.hosts.rows.items():
            if row.name == name:
                return host_id
        raise Invalid(f"No valid host was found: there is no host named {name[:64]}")

    async def console_log(self, instance_id: str, byte_count: int) -> str:
        """Give the end of a server's console log."""
        row = await self.db.read(lambda tx: tx.get(instances, id=instance_id))
        if row.host_id is None:
            raise NotFound(f"server {instance_id} is on no host")
        try:
            return await self.hosts.up_driver(row.host_id).console_log(instance_id, byte_count)
        except XenithError as error:
            # A host's own words name it; who asks may be a tenant.
            _log.warning("no console log", instance=instance_id, error=str(error))
            raise Unavailable("The server's host does not give its console log now.") from error

    def open_secret(self, sealed: str) -> bytes:
        """Open what was sealed for this cell alone, as base64."""
        data = base64.b64decode(sealed)
        try:
            return self._key.open(data)
        except Invalid:
            # Of a build that 0.1.0 had begun: there the cloud's own seal was used.
            return self.seal.open(data)

    # -- the node's executor

    def prepare(self, intent: Intent) -> _Reserved | Grown | None:
        """Claim a host for a build, or more of its host for a resize, in memory."""
        if intent.kind == RESIZE:
            return prepare_resize(self, intent)
        if intent.kind != kinds.BUILD:
            return None
        request = intent.params
        if self.hosts.table.find_claim(InstanceId(intent.subject)) is not None:
            # Accepted before, perhaps under another id: the rows say what that is worth.
            return _Reserved(request)
        try:
            if request["host"] is not None:
                request["target_host_id"] = self.host_named(request["host"])
            result = self.hosts.reserve(placement_request(intent.subject, request, []))
        except Invalid as error:
            return _Reserved(request, reason=error.message, detail=error.message)
        placement = {"attempt": 1, **msgspec.to_builtins(result.explanation)}
        if isinstance(result, Placement):
            return _Reserved(request, placement, result.hosts[0])
        return _Reserved(request, placement, reason=result.reason, detail=result.detail)

    def abandon(self, intent: Intent, prepared: _Reserved | Grown) -> None:
        """Give back what was claimed for a build that was not written down."""
        if isinstance(prepared, Grown):
            abandon_resize(self, intent, prepared)
        elif prepared.host_id is not None:
            self.hosts.abandon(intent.subject)

    def apply(self, tx: Tx, intent: Intent, prepared: _Reserved | Grown | None) -> Verdict | None:
        """Do what an intent asks, in rows; None when it is to be prepared once more."""
        if intent.kind == kinds.BUILD:
            assert isinstance(prepared, _Reserved), "a build was prepared"
            return self._accept_build(tx, intent, prepared)
        if isinstance(prepared, Grown):
            follow_rows(self, tx, intent.subject)
        row = tx.find(instances, id=intent.subject)
        if row is None and intent.kind == kinds.DELETE:
            release_claim(tx, intent.subject)
            tx.on_commit(lambda: self._forget(intent.subject))
        if row is None:
            detail = f"cell {self.cell_id} does not have server {intent.subject}"
            return Verdict(id=intent.id, answer=kinds.ABSENT, detail=detail)
        if intent.number and intent.number <= row.applied_intent:
            # A later one was here first, and has overtaken this.
            return Verdict(id=intent.id, answer=kinds.DONE, detail="overtaken by a later one")
        match intent.kind:
            case kinds.CONFIRM:
                return self._confirm(tx, intent, row)
            case kinds.DELETE:
                self._accept_delete(tx, intent, row)
            case kind if kind in SIZES:
                grown = prepared if isinstance(prepared, Grown) else Grown()
                return accept_size(self, tx, intent, row, grown)
            case kind if kind in _ACCEPTED:
                return _ACCEPTED[kind](self, tx, intent, row)
            case "power":
                self._accept_power(tx, intent)
            case "reset-state":
                self._accept_reset(tx, intent)
            case _:
                # A newer root asks for what this version cannot do.
                detail = f"cell {self.cell_id} does not know intents of kind {intent.kind}"
                return Verdict(id=intent.id, answer=kinds.NO, detail=detail)
        return Verdict(id=intent.id, answer=kinds.DONE)

    def fence(self, tx: Tx, subject: str, build: str) -> None:
        """Let go of a build that was accepted and not confirmed."""
        row = tx.find(instances, id=subject)
        if row is not None and row.build == build and not row.is_confirmed:
            self._let_go(tx, subject, build)

    def _forget(self, instance_id: str) -> None:
        """Let go of all that is in memory of a server, and of what hosts may have of it."""
        self.hosts.release(instance_id)
        self.clean_later()

    def _let_go(self, tx: Tx, subject: str, build: str) -> None:
        """End an instance that never began: it has rows and a claim, and nothing on a host."""
        release_claim(tx, subject)
        now = self.world.clock.now()
        change_instance(
            tx,
            subject,
            now_s=now,
            vm_state="deleted",
            task_state=None,
            terminated_at=now,
            request=None,
            host_id=None,
        )
        tx.on_commit(lambda: self.hosts.release(subject))
        _log.info("build let go", instance=subject, build=build)

    def capacity(self) -> Digest:
        """Tell what the hosts have free."""
        table = self.hosts.table
        ready = table.is_ready
        keys = [ClassKey(zone=zone) for zone in table.zones]
        classes = histogram(
            keys,
            table.zone_code[ready],
            table.ram_free[ready],
            table.vcpus_free[ready],
            table.disk_free[ready],
        )
        return Digest(
            cell_id=self.cell_id,
            session="",
            sequence=0,
            host_count=table.host_count,
            hosts_up_count=int(table.is_up[table.is_present].sum()),
            server_count=int(table.instance_count[table.is_present].sum()),
            classes=classes,
        )

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """Answer what the cells above ask of this one's hosts and servers."""
        match method:
            case "console_log":
                return await self.console_log(params["instance_id"], params["byte_count"])
            case "add_host":
                password = self.open_secret(params.pop("sealed_password")).decode()
                host_id = await self.hosts.add(**params, password=password)
                return {"host_id": host_id, "number": await self._last_change()}
            case "change_host":
                await self.hosts.change(HostId(params["host_id"]), params["values"])
                return {"number": await self._last_change()}
            case "cache_images":
                self._precaching.begin(params["host_ids"], params["images"])
                return {}
            case "storage":
                return await self._storage.answer(params)
            case "explain":
                return await self.db.read(_explain, params["instance_id"])
        raise NotFound(f"cell {self.cell_id} does not know the question {method}")

    async def _last_change(self) -> int:
        row = await self.db.read(lambda tx: tx.get(cell_self, id=1))
        return int(row.number)

    # -- intents

    def _accept_build(self, tx: Tx, intent: Intent, prepared: _Reserved) -> Verdict | None:
        row = tx.find(instances, id=intent.subject)
        if row is not None and row.vm_state != "deleted":
            if prepared.host_id is not None:
                # Another scheduler has claimed for it; what was claimed just now is for nothing.
                tx.on_commit(lambda: self._choose_again(intent.subject, row.host_id or ""))
            if row.is_confirmed:
                detail = f"cell {self.cell_id} has the server already"
                return Verdict(id=intent.id, answer=kinds.NO, detail=detail)
            # Sent again by another way before the first was fenced: the room is the same.
            change_instance(tx, intent.subject, now_s=self.world.clock.now(), build=intent.id)
            return self._accepted(intent)
        is_claimed = prepared.host_id is None and not prepared.reason
        if is_claimed and not self.hosts.is_unwritten(intent.subject):
            # It was let go by another scheduler, and the claim in the table is nobody's.
            tx.on_commit(lambda: self._choose_without(intent.subject))
            return None
        if prepared.host_id is None:
            trail = [] if prepared.placement is None else [prepared.placement]
            return Verdict(
                id=intent.id,
                answer=kinds.NO,
                reason=prepared.reason or "The cell is not ready.",
                detail=prepared.detail,
                trail=trail,
            )
        host = self.hosts.rows[prepared.host_id]
        request = prepared.request
        allocation = placement_request(intent.subject, request, [])
        claimed = {
            "instance_id": intent.subject,
            "host_id": host.id,
            "project_id": request["project_id"],
            "ram_mib": allocation.ram_mib,
            "vcpus": allocation.vcpus,
            "disk_gib": allocation.disk_gib,
            "group_id": allocation.group_id,
        }
        if not self.hosts.write_claim(tx, claimed):
            tx.on_commit(lambda: self._choose_again(intent.subject, host.id))
            return None
        values = {
            "project_id": request["project_id"],
            "host_id": host.id,
            "host_name": host.name,
            "zone": host.zone,
            "vm_state": "building",
            "task_state": "scheduling",
            "power_state": NOSTATE,
            "launched_at": None,
            "terminated_at": None,
            "fault": None,
            "applied_intent": intent.number,
            "build": intent.id,
            "is_confirmed": False,
            "request": request,
            "placement": [prepared.placement],
            "resize": None,
        }
        if row is not None:
            # It was let go here before, and has come back.
            change_instance(tx, intent.subject, now_s=self.world.clock.now(), **values)
        else:
            times = {"created_at": intent.created_at, "updated_at": intent.created_at}
            insert_instance(tx, {"id": intent.subject, "generation": 1, **times, **values})
        return self._accepted(intent)

    def look_again_later(self, tx: Tx, host_id: str) -> None:
        """Learn what another scheduler claimed on a host, once this is written."""

        def look() -> None:
            self._tasks.start("look again", self._look_again(host_id))

        tx.on_commit(look)

    def _choose_again(self, instance_id: str, host_id: str) -> None:
        """Let go of a host on which another scheduler was first, and learn what it claimed."""
        self.hosts.abandon(instance_id)
        self._tasks.start("look again", self._look_again(host_id))

    def _choose_without(self, instance_id: str) -> None:
        """Let go of a claim that no row stands for."""
        self.hosts.release(instance_id)
        self.on_choice()

    async def _look_again(self, host_id: str) -> None:
        await self.hosts.look_again(host_id)
        self.on_choice()

    def _accepted(self, intent: Intent) -> Verdict:
        return Verdict(id=intent.id, answer=kinds.YES, cell=self.cell_id, build=intent.id)

    def _confirm(self, tx: Tx, intent: Intent, row: Row) -> Verdict:
        """Begin a build: the root has written down that this cell has the server."""
        params = intent.params
        if row.vm_state == "deleted" or row.build != params["build"]:
            detail = f"cell {self.cell_id} does not hold build {params['build']}"
            return Verdict(id=intent.id, answer=kinds.ABSENT, detail=detail)
        if not row.is_confirmed:
            request = {**row.request, "sealed_password": params["sealed_password"]}
            change_instance(
                tx,
                intent.subject,
                now_s=self.world.clock.now(),
                is_confirmed=True,
                request=request,
            )
            saga.start(
                tx,
                "build",
                subject=intent.subject,
                request_id=_request(intent),
                params={"attempt": 1, "tried": [], "reasons": [], "host_id": row.host_id},
            )
        return Verdict(id=intent.id, answer=kinds.DONE)

    def _accept_delete(self, tx: Tx, intent: Intent, row: Row) -> None:
        if row.vm_state == "deleted":
            self.take(tx, intent)
            return
        if not row.is_confirmed:
            self.take(tx, intent)
            self._let_go(tx, intent.subject, row.build)
            return
        self.take(tx, intent, task_state="deleting")
        for kind in _CANCELLED:
            saga.cancel(tx, subject=intent.subject, kind=kind)
        saga.start(
            tx,
            "delete",
            subject=intent.subject,
            request_id=_request(intent),
            params={"started_s": intent.created_at},
        )

    def _accept_power(self, tx: Tx, intent: Intent) -> None:
        transition = TRANSITIONS[intent.params["transition"]]
        row = tx.find(instances, id=intent.subject)
        allowed = (
            row is not None
            and row.vm_state in transition.vm_states
            and (row.task_state is None or row.task_state in transition.task_states)
        )
        if not allowed:
            self.refuse(tx, intent, row, transition.action)
            return
        self.take(tx, intent, task_state=transition.task_state)
        saga.start(
            tx,
            "power",
            subject=intent.subject,
            request_id=_request(intent),
            params={**intent.params, "started_s": intent.created_at},
        )

    def _accept_reset(self, tx: Tx, intent: Intent) -> None:
        row = tx.find(instances, id=intent.subject)
        if row is None or row.vm_state == "deleted" or row.task_state == "deleting":
            self.take(tx, intent)
            return
        values: dict[str, Any] = {}
        if intent.params["vm_state"] == "active":
            values["fault"] = None
            end_by_hand(self, tx, row)
        self.take(tx, intent, task_state=None, vm_state=intent.params["vm_state"], **values)

    def take(self, tx: Tx, intent: Intent, **values: Any) -> Row | None:
        """Write what an intent asks of an instance, and that it was here."""
        return change_instance(
            tx,
            intent.subject,
            now_s=self.world.clock.now(),
            applied_intent=intent.number,
            **values,
        )

    def refuse(self, tx: Tx, intent: Intent, row: Row | None, action: str) -> None:
        """Note that an action came too late: the server had changed on the way down."""
        if row is None:
            return
        self.take(tx, intent)
        finish_event(
            tx,
            instance_id=intent.subject,
            request_id=intent.request_id,
            event=f"compute_{action}_instance",
            attempt=1,
            host=row.host_name,
            started_s=intent.created_at,
            now_s=self.world.clock.now(),
            error=f"the server was in vm_state {row.vm_state}, task_state {row.task_state}",
            details=f"Cannot '{action}' the server in vm_state {row.vm_state}",
        )

    # -- hosts

    def _on_power(self, host_id: str, instance_id: str, power: str) -> None:
        """Hear that a VM changed by itself, or as a saga told it to."""
        self._tasks.start("power", self._hear_power(host_id, instance_id, power))

    async def _hear_power(self, host_id: str, instance_id: str, power: str) -> None:
        try:
            await self.keep_power(host_id, instance_id, power)
        except Unavailable as error:
            # By the time that the database is back this may be old: the host is asked again.
            _log.warning("power not written", instance=instance_id, error=str(error))
            self._loop.wake(PowerReconciler.name)

    async def keep_power(self, host_id: str, instance_id: str, power: str) -> None:
        """Write a power state that a host told, if it is news."""
        row = await self.db.read(lambda tx: tx.find(instances, id=instance_id))
        if row is None or row.host_id != host_id or row.task_state is not None:
            # Whoever set the task_state writes what comes of it.
            return
        if row.power_state == POWER_NUMBERS.get(power) or row.vm_state in ("building", "deleted"):
            return
        await self.db.run(write_power, instance_id, host_id, power)
        if power == "nostate":
            # Not only stopped but gone, as it seems: have it made sure.
            self._loop.wake(PowerReconciler.name)

    def clean_later(self) -> None:
        """Have what was left on hosts removed, as soon as they are up."""
        self._loop.wake(LeftoverReconciler.name)

    def _on_down(self, host_id: str) -> None:
        self._tasks.start("facts", self._keep_facts(host_id))

    async def _keep_facts(self, host_id: str) -> None:
        """Write what is known of a host, once the database takes it: nobody else will."""
        while True:
            try:
                await self.hosts.keep_facts(host_id)
            except Unavailable as error:
                _log.warning("host's facts not written", host=host_id, error=str(error))
                await self.world.clock.sleep(WRITE_AGAIN_S)
            else:
                return

    def _on_up(self, host_id: str) -> None:
        self._tasks.start("facts", self._keep_facts(host_id))
        self.clean_later()
        self._loop.wake(PowerReconciler.name)


def _explain(tx: Tx, instance_id: str) -> dict[str, Any]:
    """Tell how a server's hosts were chosen and what is being done to it."""
    row = tx.peek(instances, ("placement",), id=instance_id)
    runs = list_of_subject(tx, instance_id)
    return {
        "placement": [] if row is None else row.placement or [],
        "sagas": [{"kind": run.kind, "state": run.state, "step": run.step} for run in runs],
    }


def write_power(tx: Tx, instance_id: str, host_id: str, power: str) -> None:
    """Write the power state that a host told, unless the server is being worked on."""
    row = tx.find(instances, id=instance_id)
    if row is None or row.task_state is not None or row.host_id != host_id:
        return
    write_power_found(tx, instance_id, power, now_s=tx.world.clock.now())


def _request(intent: Intent) -> Any:
    return intent.request_id
