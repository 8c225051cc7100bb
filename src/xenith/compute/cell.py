"""The compute cell: applies intents, chooses hosts, runs sagas, listens to hosts.

Everything that must be single in a cell is here. It starts by reading its rows; whatever an
earlier process had begun, the sagas resume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from xenith import saga
from xenith.cells.intents import Intent, IntentLink
from xenith.compute.hosts import CellHosts
from xenith.compute.neighbours import ImageSource
from xenith.compute.operations.context import Seal
from xenith.compute.reconcilers import InboxPruning, LeftoverReconciler, PowerReconciler
from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import change_instance, instances
from xenith.compute.sagas.build import BUILD
from xenith.compute.sagas.delete import DELETE
from xenith.compute.sagas.power import POWER, write_power_found
from xenith.compute.states import NOSTATE, POWER_NUMBERS, TRANSITIONS
from xenith.core.errors import Invalid, NotFound, Unavailable, XenithError
from xenith.core.ids import CellId, HostId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import Database, Row, Tx
from xenith.reconcile import ReconcilerLoop
from xenith.saga import SagaEngine
from xenith.saga.reconcilers import SagaPruning, StuckSagas

_log = logger("compute.cell")

#: Requests of builds in flight that are kept in memory, so that a step does not read them again.
REQUESTS_KEPT_MAX = 2000


class ComputeCell:
    """One compute cell: its rows, its hosts and its sagas."""

    def __init__(
        self,
        db: Database,
        world: World,
        *,
        cell_id: CellId,
        link: IntentLink,
        images: ImageSource,
        seal: Seal,
        project: Callable[[Tx, Row], None],
    ) -> None:
        self.db = db
        self.world = world
        self.cell_id = cell_id
        self.seal = seal
        #: Tells the parents of a change, in the transaction that makes it.
        self.project = project
        self.hosts = CellHosts(
            db,
            world,
            seal,
            open_image=images.open_image,
            on_power=self._on_power,
            on_up=self._on_up,
        )
        self.engine: SagaEngine[ComputeCell] = SagaEngine(
            db, world, self, {"build": BUILD, "delete": DELETE, "power": POWER}
        )
        self._loop = ReconcilerLoop(
            world,
            [
                LeftoverReconciler(self),
                PowerReconciler(self),
                InboxPruning(self),
                SagaPruning(db, world),
                StuckSagas(db, world),
            ],
        )
        self._tasks = TaskOwner("cell", world.clock)
        self._requests: dict[str, dict[str, Any]] = {}
        self._link = link
        link.handlers.update(
            {
                "build": self._accept_build,
                "delete": self._accept_delete,
                "power": self._accept_power,
                "reset-state": self._accept_reset,
            }
        )

    async def start(self) -> None:
        """Load hosts and claims, then resume what was begun."""
        await self.hosts.start()
        await self.engine.start()
        await self._link.start()
        self._loop.start()

    async def stop(self) -> None:
        """Stop; everything resumes from the rows in the next process."""
        await self._loop.stop()
        await self._link.stop()
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

    # -- intents

    def _accept_build(self, tx: Tx, intent: Intent) -> None:
        self._insert(tx, intent, task_state="scheduling", request=intent.params)
        saga.start(
            tx,
            "build",
            subject=intent.subject,
            request_id=_request(intent),
            params={"attempt": 1, "tried": [], "reasons": []},
        )

    def _insert(
        self, tx: Tx, intent: Intent, *, task_state: str, request: dict[str, Any] | None
    ) -> None:
        tx.insert(
            instances,
            {
                "id": intent.subject,
                "cell_id": self.cell_id,
                "project_id": intent.params.get("project_id", ""),
                "host_id": None,
                "host_name": None,
                "zone": None,
                "vm_state": "building",
                "task_state": task_state,
                "power_state": NOSTATE,
                "launched_at": None,
                "terminated_at": None,
                "fault": None,
                "applied_intent": intent.number,
                "generation": 1,
                "created_at": intent.created_at,
                "updated_at": intent.created_at,
                "request": request,
                "placement": None,
            },
        )

    def _accept_delete(self, tx: Tx, intent: Intent) -> None:
        row = tx.find(instances, id=intent.subject)
        if row is not None and row.vm_state == "deleted":
            self._take(tx, intent)
            return
        if row is None:
            # Nothing is known of it here; the server must be gone all the same.
            self._insert(tx, intent, task_state="deleting", request=None)
        else:
            self._take(tx, intent, task_state="deleting")
        for kind in ("build", "power"):
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
            self._refuse(tx, intent, row, transition.action)
            return
        self._take(tx, intent, task_state=transition.task_state)
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
            self._take(tx, intent)
            return
        values: dict[str, Any] = {"fault": None} if intent.params["vm_state"] == "active" else {}
        self._take(tx, intent, task_state=None, vm_state=intent.params["vm_state"], **values)

    def _take(self, tx: Tx, intent: Intent, **values: Any) -> Row | None:
        return change_instance(
            tx,
            intent.subject,
            now_s=self.world.clock.now(),
            applied_intent=intent.number,
            **values,
        )

    def _refuse(self, tx: Tx, intent: Intent, row: Row | None, action: str) -> None:
        """Note that an action came too late: the server had changed on the way down."""
        if row is None:
            return
        self._take(tx, intent)
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
        self._tasks.start("power", self.keep_power(host_id, instance_id, power))

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

    def _on_up(self, host_id: str) -> None:
        self._tasks.start("facts", self.hosts.keep_facts(host_id))
        self.clean_later()
        self._loop.wake(PowerReconciler.name)

    async def settle(self) -> None:
        """Wait until every intent has been applied and every saga has ended; for tests."""
        while True:
            await self.engine.settle()
            if not await self._link.carry_now():
                return
            await asyncio.sleep(0)


def write_power(tx: Tx, instance_id: str, host_id: str, power: str) -> None:
    """Write the power state that a host told, unless the server is being worked on."""
    row = tx.find(instances, id=instance_id)
    if row is None or row.task_state is not None or row.host_id != host_id:
        return
    write_power_found(tx, instance_id, power, now_s=tx.world.clock.now())


def _request(intent: Intent) -> Any:
    return intent.request_id
