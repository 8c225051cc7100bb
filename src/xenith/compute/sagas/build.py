"""Build: a server that a cell has accepted becomes a running VM on one of its hosts.

    claim ─ image ─ disks ─ vm ─ start ─ run
      │       │       │      │     │      │
    release   -    delete  delete  -    halt, for sure

Each run is one attempt on one host. One that unwinds is followed by a run on another host, in the
transaction that ends it; when no host is left, the server is in ERROR with the reasons. A host that
is away holds no build up until its VM may have run: the VM is started with its processors stopped,
so that what it is told then, and that alone, binds the server to the host (ADR 13).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from xenith import saga
from xenith.compute.records.actions import finish_event
from xenith.compute.records.claims import release_claim
from xenith.compute.records.flavors import disk_gib_of
from xenith.compute.records.instances import change_instance, instances, settle_instance
from xenith.compute.states import NOSTATE, POWER_NUMBERS, VM_STATE_OF_POWER
from xenith.core.errors import Conflict, Exhausted, Invalid, Unavailable, XenithError
from xenith.core.ids import HostId, InstanceId, ProjectId
from xenith.core.limits import BUILD_ATTEMPTS_MAX
from xenith.core.log import logger
from xenith.db import Tx
from xenith.driver import VmNic, VmSpec, build_config_drive
from xenith.saga import Outcome, Run, Saga, Step
from xenith.scheduler.choose import NoValidHost
from xenith.scheduler.request import PlacementRequest

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

_log = logger("compute.build")

#: Seconds that a build may wait for its turn on a busy fleet before it is given up.
CLAIM_TIMEOUT_S = 3600.0
#: Seconds for an image to reach a host. Source: nova waited 3600 s for a download.
IMAGE_TIMEOUT_S = 3600.0

#: Seconds in which a host must say what came of the word to run, and between words.
ANSWER_TIMEOUT_S = 60.0
ANSWER_RETRY_S = 2.0
#: The kind of the error when a host was never told to let a VM run.
NEVER_RAN = "NeverRan"
UNKNOWN = "The server's host went away as the server began to run. It is looked at when it is back."

EVENT = "compute__do_build_and_run_instance"


def placement_request(instance_id: str, request: dict[str, Any], tried: list[str]) -> Any:
    """Give the scheduler's view of a build."""
    flavor, hints = request["flavor"], request["hints"]
    group = request.get("group") or {}
    return PlacementRequest(
        instance_id=InstanceId(instance_id),
        project_id=ProjectId(request["project_id"]),
        ram_mib=flavor["ram"],
        vcpus=flavor["vcpus"],
        disk_gib=disk_gib_of(flavor),
        availability_zone=request["zone"],
        extra_specs=flavor["extra_specs"],
        image_properties=request["image"]["properties"],
        same_host=_listed(hints.get("same_host")),
        different_host=_listed(hints.get("different_host")),
        tried_hosts=tuple(tried),  # type: ignore[arg-type]
        target_host=request.get("target_host_id"),
        group_id=group.get("id"),
        group_policy=group.get("policy", ""),
        group_per_host_max=group.get("max_per_host", 1),
    )


def _listed(value: Any) -> tuple[InstanceId, ...]:
    if not value:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


async def claim(cell: ComputeCell, run: Run) -> Outcome:
    """Choose a host and claim it: in memory first, then with the rows.

    A first attempt has its host from when the cell accepted it, and only waits for its turn there.
    """
    if run.params.get("host_id") is not None:
        return await _begin(cell, run, HostId(run.params["host_id"]))
    request = await cell.request_of(run.subject)
    if request["host"] is not None:
        request["target_host_id"] = cell.host_named(request["host"])
    result = await cell.hosts.claim(placement_request(run.subject, request, run.params["tried"]))
    placement = {"attempt": run.params["attempt"], **msgspec.to_builtins(result.explanation)}
    if isinstance(result, NoValidHost):
        await cell.db.run(_keep_placement, run.subject, placement)
        raise Exhausted(result.reason, kind="NoValidHost") from Exhausted(result.detail)
    host_id = result.hosts[0]
    row = cell.hosts.rows[host_id]
    allocation = placement_request(run.subject, request, [])
    now = cell.world.clock.now()

    def record(tx: Tx) -> None:
        claimed = {
            "instance_id": run.subject,
            "host_id": host_id,
            "project_id": request["project_id"],
            "ram_mib": allocation.ram_mib,
            "vcpus": allocation.vcpus,
            "disk_gib": allocation.disk_gib,
            "group_id": allocation.group_id,
        }
        if not cell.hosts.write_claim(tx, claimed):
            raise Conflict(f"another scheduler has claimed on host {row.name} first")
        known = tx.get(instances, id=run.subject)
        settle_instance(
            tx,
            run.subject,
            now_s=now,
            host_id=host_id,
            host_name=row.name,
            zone=row.zone,
            task_state="spawning",
            placement=[*(known.placement or []), placement],
        )

    return Outcome({"host_id": host_id, "host_name": row.name, "started_s": now}, record)


async def _begin(cell: ComputeCell, run: Run, host_id: HostId) -> Outcome:
    await cell.hosts.begin(run.subject)
    row = cell.hosts.rows.get(host_id)
    if row is None:
        raise Unavailable("the host was taken out")
    now = cell.world.clock.now()

    def record(tx: Tx) -> None:
        settle_instance(tx, run.subject, now_s=now, task_state="spawning")

    return Outcome({"host_id": host_id, "host_name": row.name, "started_s": now}, record)


def _keep_placement(tx: Tx, instance_id: str, placement: dict[str, Any]) -> None:
    known = tx.find(instances, id=instance_id)
    if known is not None:
        change_instance(
            tx,
            instance_id,
            now_s=tx.world.clock.now(),
            placement=[*(known.placement or []), placement],
        )


async def release(cell: ComputeCell, run: Run) -> Outcome:
    """Give the claim back, in the rows and then in memory."""

    def record(tx: Tx) -> None:
        tx.on_commit(lambda: cell.hosts.release(run.subject, is_failure=_is_hosts_fault(run)))
        release_claim(tx, run.subject)
        settle_instance(tx, run.subject, now_s=cell.world.clock.now(), host_id=None, host_name=None)

    return Outcome(record=record)


async def bring_image(cell: ComputeCell, run: Run) -> None:
    """Have the image on the host; the first build of an image there brings it."""
    request = await cell.request_of(run.subject)
    image = request["image"]
    with _hosts_words_kept():
        await cell.hosts.up_driver(run.data["host_id"]).ensure_image(
            image["id"], disk_format=image["disk_format"] or "raw", size_bytes=image["size_bytes"]
        )


async def make_disks(cell: ComputeCell, run: Run) -> None:
    """Make the root disk from the image, the flavor's further disks, and the config drive."""
    spec = await vm_spec(cell, run)
    with _hosts_words_kept():
        driver = cell.hosts.up_driver(run.data["host_id"])
        # All are waited for whatever comes of one: the undo must find them at rest.
        ends = await asyncio.gather(
            driver.create_root_disk(spec),
            driver.create_flavor_disks(spec),
            driver.create_config_drive(spec),
            return_exceptions=True,
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end


async def remove_disks(cell: ComputeCell, run: Run) -> None:
    """Remove the disks."""
    await _clean(cell, run)


async def make_vm(cell: ComputeCell, run: Run) -> None:
    """Make the VM with its disks and interfaces."""
    spec = await vm_spec(cell, run, has_drive_bytes=False)
    with _hosts_words_kept():
        await cell.hosts.up_driver(run.data["host_id"]).create_vm(spec)


async def remove_vm(cell: ComputeCell, run: Run) -> None:
    """Stop and remove the VM."""
    await _clean(cell, run)


async def _clean(cell: ComputeCell, run: Run) -> None:
    """Take everything of the server off the host; one that will not let it go is cleaned later.

    A host that is away, or still at what it was told to do, holds no build up. What stays there no
    row knows any more, so the reconciler of leftovers removes it.
    """
    try:
        await cell.hosts.up_driver(run.data["host_id"]).destroy_instance(run.subject)
    except XenithError as error:
        _log.warning("left for later on a host", instance=run.subject, error=str(error))
        cell.clean_later()


async def start_vm(cell: ComputeCell, run: Run) -> None:
    """Start the VM with its processors stopped: whatever comes of it, nothing has run yet."""
    with _hosts_words_kept():
        await cell.hosts.up_driver(run.data["host_id"]).start_vm(run.subject)


async def run_vm(cell: ComputeCell, run: Run) -> Outcome:
    """Let the VM run; the server is then what its power state says.

    From the first word to the host on, the server is there and nowhere else. If the host does not
    say what came of it, nobody else may build: the server is in ERROR, on its host, until that
    answers again.
    """
    power = await _let_run(cell, run)
    now = cell.world.clock.now()
    host_name = run.data["host_name"]

    def record(tx: Tx) -> None:
        row = settle_instance(tx, run.subject, now_s=now, **_state_of(power, now))
        if row is None or row.task_state == "deleting":
            return  # The delete has the word; this run unwinds.
        # Hints for after the commit; both may be repeated.
        tx.on_commit(lambda: cell.hosts.finish_build(run.subject))
        tx.on_commit(lambda: cell.end_request(run.subject))
        finish_event(
            tx,
            instance_id=run.subject,
            request_id=run.request_id or "",
            event=EVENT,
            attempt=run.params["attempt"],
            host=host_name,
            started_s=run.data["started_s"],
            now_s=now,
            error=UNKNOWN if power is None else None,
            details=UNKNOWN if power is None else None,
        )

    return Outcome(record=record)


async def _let_run(cell: ComputeCell, run: Run) -> str | None:
    """Tell the host to let the VM run until it answers; None when it does not for long.

    Raises:
        Unavailable: the host refuses, or was never told.
    """
    clock = cell.world.clock
    until = clock.monotonic() + ANSWER_TIMEOUT_S
    was_told = run.attempt > 1
    while True:
        try:
            driver = cell.hosts.up_driver(run.data["host_id"])
        except XenithError as error:
            if not was_told:
                raise Unavailable("the host was away or failed", kind=NEVER_RAN) from error
        else:
            was_told = True
            try:
                return await driver.run_vm(run.subject)
            except Unavailable as error:
                _log.warning("no word of a VM", instance=run.subject, error=str(error))
            except XenithError as error:
                raise Unavailable("the host refused", kind=error.kind) from error
        if clock.monotonic() > until:
            return None
        await clock.sleep(ANSWER_RETRY_S)


def _state_of(power: str | None, now_s: float) -> dict[str, Any]:
    """Give what an instance is when its VM was let run, or when nobody knows whether it was."""
    known: dict[str, Any] = {"task_state": None, "request": None}
    if power is None:
        fault = {"code": 500, "created": now_s, "message": UNKNOWN, "details": UNKNOWN}
        return {**known, "vm_state": "error", "power_state": NOSTATE, "fault": fault}
    return {
        **known,
        "vm_state": VM_STATE_OF_POWER.get(power, "active"),
        "power_state": POWER_NUMBERS.get(power, NOSTATE),
        "launched_at": now_s,
        "fault": None,
    }


async def halt_vm(cell: ComputeCell, run: Run) -> None:
    """Take the VM away, and be sure of it: it may run.

    Raises:
        XenithError: the host does not say that it did; no other host may be tried before.
    """
    if (run.error or {}).get("kind") != NEVER_RAN:
        await cell.hosts.up_driver(run.data["host_id"]).destroy_instance(run.subject)


async def vm_spec(cell: ComputeCell, run: Run, *, has_drive_bytes: bool = True) -> VmSpec:
    """Give what the driver needs; the config drive's bytes only to the step that fills it."""
    request = await cell.request_of(run.subject)
    flavor, image = request["flavor"], request["image"]
    nics = tuple(
        VmNic(
            port_id=port["id"],
            network_id=port["network_id"],
            mac=port["mac"],
            mtu=port["mtu"],
            device=device,
            ipv4=tuple(a["address"] for a in port["addresses"] if a["version"] == 4),
            ipv6=tuple(a["address"] for a in port["addresses"] if a["version"] == 6),
        )
        for device, port in enumerate(request["ports"])
    )
    drive = None
    if request["config_drive"] and has_drive_bytes:
        password = cell.open_secret(request["sealed_password"]).decode()
        drive = build_config_drive(run.subject, request, admin_pass=password)
    return VmSpec(
        instance_id=run.subject,
        name=request["name"],
        hostname=request["hostname"],
        ram_mib=flavor["ram"],
        vcpus=flavor["vcpus"],
        root_gib=flavor["disk"],
        swap_mib=flavor["swap"],
        ephemeral_gib=flavor["ephemeral"],
        image_id=image["id"],
        image_format=image["disk_format"] or "raw",
        image_size_bytes=image["size_bytes"],
        nics=nics,
        xenstore={"vm-data/hostname": request["hostname"]},
        config_drive=drive,
    )


def unwound(tx: Tx, run: Run) -> None:
    """Try the next host, or say why there is none."""
    row = tx.find(instances, id=run.subject)
    error = run.error or {}
    if row is None or run.is_cancelled or error.get("class") == "Cancelled":
        return
    if row.task_state == "deleting" or row.vm_state == "deleted":
        return
    now = tx.world.clock.now()
    reasons = [*run.params["reasons"], _reason(run, error)]
    host_id = run.data.get("host_id")
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=EVENT,
        attempt=run.params["attempt"],
        host=run.data.get("host_name"),
        now_s=now,
        started_s=run.data.get("started_s", now),
        error="; ".join(reason["detail"] for reason in reasons),
        details=reasons[-1]["message"],
    )
    attempt = run.params["attempt"]
    if host_id is not None and attempt < BUILD_ATTEMPTS_MAX and _is_hosts_fault(run):
        saga.start(
            tx,
            "build",
            subject=run.subject,
            request_id=run.request_id,
            params={
                "attempt": attempt + 1,
                "tried": [*run.params["tried"], host_id],
                "reasons": reasons,
            },
        )
        return
    settle_instance(
        tx,
        run.subject,
        now_s=now,
        vm_state="error",
        task_state=None,
        power_state=NOSTATE,
        host_id=None,
        host_name=None,
        request=None,
        fault={
            "code": 500,
            "created": now,
            "message": _tenant_message(reasons),
            "details": "\n".join(reason["detail"] for reason in reasons),
        },
    )


def _reason(run: Run, error: dict[str, str]) -> dict[str, str]:
    where = f"host {run.data['host_name']}: " if "host_name" in run.data else ""
    detail = error.get("detail") or error.get("message", "")
    return {
        "message": _sentence(error),
        "class": error.get("class", ""),
        "kind": error.get("kind", ""),
        "detail": f"attempt {run.params['attempt']}, {where}{error.get('step', '')}: {detail}",
    }


def _sentence(error: dict[str, str]) -> str:
    message = error.get("message", "").rstrip(".") or "it failed"
    return f"{message[0].upper()}{message[1:]}."


def _tenant_message(reasons: list[dict[str, str]]) -> str:
    """Word the end for a tenant: no host's name, no address."""
    last = reasons[-1]
    if len(reasons) == 1 or last["class"] == "Invalid":
        return last["message"]
    told = [f"attempt {n}: {reason['message']}" for n, reason in enumerate(reasons, start=1)]
    return "The server could not be built. " + " ".join(told)


def _is_hosts_fault(run: Run) -> bool:
    """Tell whether another host may do what this one did not."""
    return (run.error or {}).get("class") not in ("Cancelled", "Invalid")


@contextmanager
def _hosts_words_kept() -> Iterator[None]:
    """Keep what a host says of itself for admins: it may name the host and its address.

    What is wrong with the request itself (an image that is no disk) the tenant must know.

    Raises:
        Unavailable: the host did not do it; the cause is the host's own words.
        Invalid: no host would.
    """
    try:
        yield
    except XenithError as error:
        if isinstance(error, Invalid) and "host" not in error.fields:
            raise
        match error:
            case Exhausted():
                told = "the host had no room"
            case Unavailable():
                told = "the host was away or failed"
            case _:
                told = "the host refused"
        raise Unavailable(told, kind=error.kind) from error


BUILD: Saga[ComputeCell] = Saga(
    name="build",
    steps=(
        Step(name="claim", do=claim, undo=release, timeout_s=CLAIM_TIMEOUT_S, is_cancellable=True),
        Step(
            name="image",
            do=bring_image,
            timeout_s=IMAGE_TIMEOUT_S,
            is_cancellable=True,
            is_light=True,
        ),
        Step(name="disks", do=make_disks, undo=remove_disks, is_light=True),
        # On record before the VM starts: the disks of one that runs cannot be made again.
        Step(name="vm", do=make_vm, undo=remove_vm),
        # On record before the VM runs: it can be said of no other host from there on.
        Step(name="start", do=start_vm),
        Step(name="run", do=run_vm, undo=halt_vm),
    ),
    on_unwound=unwound,
)
