"""The line to one host: log in, learn what it is, call, and come back after it was away.

Whether a host is up is decided here alone, by one long poll for events: calls that fail do not
change it, since a host that is gone fails the poll too. Each time the line is made, ``on_open``
looks at what the host has before anything else is asked of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from math import isfinite
from typing import Any

import msgspec

from xenith.core.errors import Unavailable, XenithError
from xenith.core.limits import GIB, MIB, XAPI_CALL_TIMEOUT_S
from xenith.core.log import logger
from xenith.core.world import World
from xenith.driver.faults import error_of
from xenith.xapi import NULL, XapiFault, XapiSession

_log = logger("driver.connection")

#: Seconds between attempts to reach a host, doubling, with up to half again by chance.
RECONNECT_MIN_S = 0.5
RECONNECT_MAX_S = 30.0
#: Seconds that an object may stay in use. Source: dom0 lets go of an exported disk within a minute.
PATIENCE_S = 60.0
PATIENCE_STEP_S = 0.5
_IN_USE = frozenset({"OTHER_OPERATION_IN_PROGRESS", "VDI_IN_USE"})


class HostAddress(msgspec.Struct, frozen=True):
    """Where a host is and how to log in there."""

    id: str
    name: str
    url: str
    user: str
    password: str

    def __repr__(self) -> str:
        """Show all but the password."""
        return f"HostAddress({self.id}, {self.name}, {self.url}, {self.user})"


class HostFacts(msgspec.Struct, frozen=True):
    """What a host says that it is; memory without what its own domain takes."""

    memory_mib: int
    cpus: int
    disk_gib: int
    hypervisor_type: str
    hypervisor_version: str
    hostname: str
    cpu_info: dict[str, str]
    ip: str
    #: When the host started, in epoch seconds, if it told. Source: XenServer, `other_config`.
    booted_at: float | None = None


class HostPlaces(msgspec.Struct, frozen=True):
    """References that calls need: the host itself and where its disks go."""

    host: str
    sr: str
    has_openvswitch: bool
    #: Whether the host runs our own toolstack.
    is_ours: bool


class HostConnection:
    """One host's line, kept by ``run``."""

    def __init__(
        self,
        world: World,
        address: HostAddress,
        *,
        on_open: Callable[[], Awaitable[None]],
        on_state: Callable[[bool], None],
        watch: Callable[[XapiSession], Awaitable[None]],
    ) -> None:
        self.address = address
        self.is_up = False
        self.down_reason = "not yet connected"
        self.facts: HostFacts | None = None
        self._world = world
        self._on_open = on_open
        self._on_state = on_state
        self._watch = watch
        self._session: XapiSession | None = None
        self._places: HostPlaces | None = None
        self._answered = asyncio.Event()

    @property
    def places(self) -> HostPlaces:
        """The host's references.

        Raises:
            Unavailable: the host has never answered.
        """
        if self._places is None:
            raise Unavailable(f"host {self.address.name} is down: {self.down_reason}")
        return self._places

    async def answered(self) -> None:
        """Wait until the host is up, or the first attempt to reach it has failed."""
        await self._answered.wait()

    async def call(self, method: str, *params: Any, timeout_s: float = XAPI_CALL_TIMEOUT_S) -> Any:
        """Call a method of the host.

        Raises:
            XapiFault: the host refuses.
            Unavailable: the host does not answer.
        """
        try:
            return await self.session.call(method, *params, timeout_s=timeout_s)
        except Unavailable as error:
            raise self._away(error) from error

    async def import_vdi(
        self,
        vdi_ref: str,
        chunks: AsyncIterator[bytes],
        *,
        disk_format: str,
        size_bytes: int,
        timeout_s: float,
    ) -> None:
        """Fill a disk with a stream of ``size_bytes``.

        Raises:
            XapiFault: the host refuses the bytes.
            Invalid: the stream is of another size.
            Unavailable: the host does not take them.
        """
        # Others than our own toolstack answer before they have written, and tell only a task
        # what went wrong after that.
        is_tracked = not self.places.is_ours
        task = await self.call("task.create", "xenith import", "") if is_tracked else ""
        try:
            await self.session.import_raw_vdi(
                vdi_ref,
                chunks,
                disk_format=disk_format,
                size_bytes=size_bytes,
                task_ref=task,
                timeout_s=timeout_s,
            )
            if is_tracked:
                record = await self.call("task.get_record", task)
                if record["status"] == "failure":
                    raise XapiFault(*record["error_info"])
        except Unavailable as error:
            raise self._away(error) from error
        finally:
            if is_tracked:
                with contextlib.suppress(XapiFault, Unavailable):
                    await self.call("task.destroy", task)

    async def export_vdi(
        self, vdi_ref: str, *, disk_format: str, base_ref: str = ""
    ) -> AsyncGenerator[bytes]:
        """Give a disk's bytes piece by piece, or what it has beyond ``base_ref``.

        Raises:
            XapiFault: the host refuses.
            Unavailable: the host does not give them, or not to the end.
        """
        try:
            stream = self.session.export_raw_vdi(
                vdi_ref,
                disk_format=disk_format,
                base_ref=base_ref,
                timeout_s=XAPI_CALL_TIMEOUT_S,
            )
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    yield piece
        except Unavailable as error:
            raise self._away(error) from error

    async def call_patiently(self, method: str, *params: Any) -> Any:
        """Call a method, again and again for a while when something else holds the object.

        Raises:
            XapiFault: the host refuses, or the object stays in use.
            Unavailable: the host does not answer.
        """
        clock = self._world.clock
        until = clock.monotonic() + PATIENCE_S
        while True:
            try:
                return await self.call(method, *params)
            except XapiFault as fault:
                if fault.code not in _IN_USE or clock.monotonic() >= until:
                    raise
            await clock.sleep(PATIENCE_STEP_S)

    @property
    def session(self) -> XapiSession:
        """The session with the host.

        Raises:
            Unavailable: there is none now.
        """
        if self._session is None:
            raise Unavailable(f"host {self.address.name} is down: {self.down_reason}")
        return self._session

    def _away(self, error: Unavailable) -> Unavailable:
        return Unavailable(
            f"host {self.address.name}: {error.message}",
            retry_after_s=error.retry_after_s,
            host=self.address.name,
        )

    async def run(self) -> None:
        """Keep the line for good: connect, watch, and after a failure wait and begin again."""
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                await self._connect()
                delay_s = RECONNECT_MIN_S
                assert self._session is not None
                await self._watch(self._session)
            except (XapiFault, XenithError, msgspec.ValidationError) as error:
                self._go_down(error)
                self._drop()
            await self._world.clock.sleep(delay_s * (1 + self._world.ids.uniform() / 2))
            delay_s = min(delay_s * 2, RECONNECT_MAX_S)

    async def _connect(self) -> None:
        address = self.address
        self._drop()
        self._session = await XapiSession.login(
            address.url, user=address.user, password=address.password, originator="xenith"
        )
        self._places, self.facts = await self._look()
        await self._on_open()
        self.is_up, self.down_reason = True, ""
        self._answered.set()
        self._on_state(True)

    async def _look(self) -> tuple[HostPlaces, HostFacts]:
        """Learn what the host is; a pool is of one host here."""
        pools = await self.call("pool.get_all_records")
        pool = next(iter(pools.values()))
        host, srs = await asyncio.gather(
            self.call("host.get_record", pool["master"]), self.call("SR.get_all_records")
        )
        metrics = await self.call("host_metrics.get_record", host["metrics"])
        own_bytes = int(host.get("memory_overhead", 0))
        if host.get("control_domain", NULL) not in (NULL, ""):
            domain = await self.call("VM.get_record", host["control_domain"])
            own_bytes += int(domain["memory_dynamic_max"])
        sr_ref = _disk_place(pool["default_SR"], srs)
        if sr_ref is None:
            raise Unavailable("the host has no storage repository for disks")
        version, cpu = host["software_version"], host["cpu_info"]
        places = HostPlaces(
            host=pool["master"],
            sr=sr_ref,
            has_openvswitch=version.get("network_backend") == "openvswitch",
            is_ours=version.get("product_brand") == "Xenith",
        )
        return places, HostFacts(
            memory_mib=max(0, int(metrics["memory_total"]) - own_bytes) // MIB,
            cpus=int(cpu.get("cpu_count", 0)),
            disk_gib=int(srs[sr_ref]["physical_size"]) // GIB,
            hypervisor_type="XenServer",
            hypervisor_version=version.get("product_version", ""),
            hostname=host["hostname"],
            cpu_info={name: str(value) for name, value in cpu.items()},
            ip=host["address"],
            booted_at=_moment(host["other_config"].get("boot_time")),
        )

    def _go_down(self, error: Exception) -> None:
        if isinstance(error, XapiFault):
            error = error_of(error, host_name=self.address.name, doing="be used")
        self.down_reason = str(error)
        was_up, self.is_up = self.is_up, False
        self._answered.set()
        if was_up:
            _log.warning("host is down", host=self.address.name, reason=self.down_reason)
            self._on_state(False)

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.abort()

    async def close(self) -> None:
        """End the session, so that the host need not keep it."""
        session, self._session = self._session, None
        was_up, self.is_up, self.down_reason = self.is_up, False, "not connected"
        if session is None:
            return
        if was_up:
            await session.logout()
        else:
            session.abort()


def _moment(text: str | None) -> float | None:
    """Read a time in epoch seconds, which XenServer writes with a last point: ``1766000000.``."""
    try:
        moment = float(text or "")
    except ValueError:
        return None
    return moment if isfinite(moment) else None


def _disk_place(default_sr: str, srs: dict[str, dict[str, Any]]) -> str | None:
    """Choose where disks go: the pool's default, else the first that holds users' disks."""
    if default_sr in srs:
        return default_sr
    return next(
        (
            ref
            for ref, sr in sorted(srs.items(), key=lambda item: str(item[1]["uuid"]))
            if sr["content_type"] == "user" and sr["type"] not in ("iso", "udev")
        ),
        None,
    )
