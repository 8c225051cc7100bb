"""One living domain: a QEMU process that we hold by its handle and speak QMP with.

What must outlive us is in the domain's directory: ``domain.json`` (the spec, the domid and how
QEMU was started), QEMU's pid file and monitor, the console's log, and the saved memory of a
suspended domain:

    memory.part    being written                 worthless after a crash
    memory         whole; the domain is suspended, or about to end
    memory.loaded  read back; the domain runs on from it, so it must never be read again

The guest's state in QEMU's words is asked for, never remembered over a restart of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from xenith.core.clock import Clock
from xenith.core.log import logger
from xenith.toolstack.backends import NO_ROOM, BackendError, DiskSpec, DomainSpec, DomainState
from xenith.toolstack.backends.qemu import measures
from xenith.toolstack.backends.qemu.command import MONITOR, throttle_limits, throttle_name
from xenith.toolstack.backends.qemu.processes import Process
from xenith.toolstack.backends.qemu.qmp import Qmp, QmpError
from xenith.toolstack.backends.qemu.taps import Tap

#: Writing memory to a disk at 50 MB/s, 64 GiB take twenty minutes.
MEMORY_TIMEOUT_S = 1800.0
#: QEMU greets at once unless it is stuck or another toolstack holds its one connection.
_GREETING_TIMEOUT_S = 5.0
#: What is measured must not come later than the next measurement.
_MEASURE_TIMEOUT_S = 2.0
#: Asked again, since a guest that still boots loses the press of its power button.
_POWER_BUTTON_PERIOD_S = 5.0
#: SeaBIOS that is entered by a reset resets the machine again, which looks like the guest's doing.
#: No guest boots and reboots within this.
_RESET_ECHO_S = 5.0
#: As fast as the disk is; QEMU holds migration to 128 MiB/s otherwise.
_BANDWIDTH_BYTES_MAX = 1 << 40
_log = logger("toolstack.qemu")

#: QEMU's run states in XenAPI's words. Source: QEMU, qapi/run-state.json, RunState.
_STATES: dict[str, DomainState] = {
    "running": "running",
    "guest-panicked": "crashed",
    "internal-error": "crashed",
}

#: The run state in which QEMU stops, by what it said before.
_STOPS = {"guest-shutdown": "shutdown", "io-error": "io-error"}

#: Source: QEMU, qapi/run-state.json, ShutdownCause.
_ORDERLY_ENDS = ("guest-shutdown", "host-qmp-quit", "host-signal")


class Record(msgspec.Struct, frozen=True):
    """``domain.json``."""

    spec: DomainSpec
    domid: int
    accelerator: str
    machine: str
    #: Saved memory of a machine without the port fits no machine with it.
    has_xenstore: bool = False


class Domain:
    """A domain whose QEMU lives.

    ``on_change`` is called with the new state and the reason when the guest does something by
    itself, also when its QEMU ends unasked.
    """

    def __init__(
        self,
        record: Record,
        directory: Path,
        *,
        process: Process,
        clock: Clock,
        on_change: Callable[[Domain, DomainState, str], None],
    ) -> None:
        self.record = record
        self.directory = directory
        self.process = process
        self.status = "prelaunch"
        #: What serves its disks; None where it has none.
        self.tap: Tap | None = None
        #: While we end it ourselves, its end is not news.
        self.is_ending = False
        #: Called when the guest has closed the port to its xenstore, or was reset.
        self.on_port_close: Callable[[], None] = lambda: None
        self._clock = clock
        self._on_change = on_change
        self._qmp = Qmp(self._take_event)
        self._reason = ""
        self._changed = asyncio.Event()
        self._reset_at = float("-inf")

    @property
    def uuid(self) -> str:
        """The VM's uuid."""
        return self.record.spec.vm_uuid

    @property
    def state(self) -> DomainState:
        """The state in XenAPI's words."""
        return _STATES.get(self.status, "paused")

    @property
    def lacks_room(self) -> bool:
        """Whether the guest waits with a write for which there was no room."""
        return self.status == "io-error"

    @property
    def memory(self) -> Path:
        """Where the memory of the suspended domain is."""
        return self.directory / "memory"

    async def connect(self) -> None:
        """Speak to QEMU and learn the guest's state.

        Raises:
            QmpError: it does not answer.
        """
        await self._qmp.connect(self.directory / MONITOR, timeout_s=_GREETING_TIMEOUT_S)
        await self.refresh()

    async def refresh(self) -> str:
        """Ask QEMU for its run state."""
        self.status = str((await self._command("query-status"))["status"])
        return self.status

    async def release(self) -> None:
        """Let go; the guest runs on."""
        await self._qmp.close()
        self.process.release()
        if self.tap is not None:
            self.tap.release()

    async def watch(self) -> None:
        """Wait for QEMU's end and tell the reason, unless we end it or let it go first."""
        await asyncio.wait([self.process.ended])
        # Its last words may still be on their way: what it died of is among them.
        await self._qmp.drain()
        self.status = "gone"
        self._changed.set()
        if self._reason in _ORDERLY_ENDS:
            self._on_change(self, "halted", self._reason)
        else:
            self._on_change(self, "crashed", self._reason or "QEMU ended unasked")

    async def pause(self) -> None:
        """Stop the guest's processors."""
        await self._command("stop")
        await self.refresh()

    async def unpause(self) -> None:
        """Let the guest's processors run."""
        await self._command("cont")
        await self.refresh()

    async def measure(self) -> dict[str, float]:
        """Tell what the guest uses, by the names of data sources.

        Raises:
            BackendError: QEMU does not answer.
        """
        if not self._qmp.is_connected:
            # Whoever has something to do to it connects again; this is not worth the wait.
            raise BackendError("INTERNAL_ERROR", "QEMU: not connected")

        async def ask(name: str) -> Any:
            return await self._command(name, timeout_s=_MEASURE_TIMEOUT_S)

        try:
            return await measures.domain(ask, self.record.spec, pid=self.process.pid)
        except OSError as error:
            raise BackendError("INTERNAL_ERROR", f"QEMU is gone: {error}") from error

    async def limit(self, boot_index: int, disk: DiskSpec) -> None:
        """Limit a disk's input and output from now on."""
        path = f"/objects/{throttle_name(boot_index)}"
        limits = {"path": path, "property": "limits", "value": throttle_limits(disk)}
        await self._command("qom-set", limits)

    async def power_off(self) -> None:
        """End QEMU at once; its disks are closed in order if it still listens."""
        self.is_ending = True
        with contextlib.suppress(BackendError):
            await self._command("quit", timeout_s=_GREETING_TIMEOUT_S)
            if await self.process.wait():
                return
        self.process.kill()
        if not await self.process.wait():
            raise BackendError("INTERNAL_ERROR", f"process {self.process.pid} does not die")

    async def shut_down(self, *, timeout_s: float) -> None:
        """Press the power button until the guest has ended by itself.

        Raises:
            BackendError: VM_SHUTDOWN_TIMEOUT; the guest runs on.
        """
        self.is_ending = True
        if not await self._press_power_button(timeout_s, until=self.process.ended.done):
            self.is_ending = False
            raise BackendError("VM_SHUTDOWN_TIMEOUT", self.uuid, str(int(timeout_s)))

    async def restart_clean(self, *, timeout_s: float) -> None:
        """Let the guest shut down, keep its QEMU, and begin again from the BIOS.

        Raises:
            BackendError: VM_SHUTDOWN_TIMEOUT; the guest runs on.
        """
        await self._command("set-action", {"shutdown": "pause"})
        try:
            if not await self._press_power_button(
                timeout_s, until=lambda: self.status == "shutdown"
            ):
                raise BackendError("VM_SHUTDOWN_TIMEOUT", self.uuid, str(int(timeout_s)))
            await self.restart()
        finally:
            with contextlib.suppress(BackendError):
                await self._command("set-action", {"shutdown": "poweroff"})

    async def restart(self) -> None:
        """Begin again from the BIOS at once."""
        await self._command("system_reset")
        await self._command("cont")
        await self.refresh()

    async def save(self) -> None:
        """Write the guest's memory to the host's disk and end QEMU; on failure it runs on."""
        part = self.directory / "memory.part"
        await self._command("stop")
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            await self._command("getfd", {"fdname": "memory"}, files=[file])
            await self._command("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH_BYTES_MAX})
            await self._command("migrate", {"uri": "fd:memory"})
            await self._wait_for_migration()
            await asyncio.to_thread(os.fsync, file)
        except (BackendError, OSError):
            part.unlink(missing_ok=True)
            with contextlib.suppress(BackendError):
                await self._command("migrate_cancel")
            with contextlib.suppress(BackendError):
                await self.unpause()
            raise
        finally:
            os.close(file)
        self.finish_save()
        await self.power_off()

    def finish_save(self) -> None:
        """Make the written memory the one that a resume reads."""
        (self.directory / "memory.part").replace(self.memory)

    async def load(self) -> None:
        """Go on from the memory that QEMU was started with.

        Raises:
            BackendError: the memory could not be read; it is as it was.
        """
        self.is_ending = True  # until the guest runs, an end of QEMU is this call's failure
        deadline = self._clock.monotonic() + MEMORY_TIMEOUT_S
        while await self.refresh() == "inmigrate":
            if self._clock.monotonic() > deadline:
                raise BackendError("INTERNAL_ERROR", "the saved memory could not be read in time")
            await self._clock.sleep(0.05)
        loaded = self.memory.with_suffix(".loaded")
        if self.memory.exists():
            self.memory.replace(loaded)
        await self.unpause()
        self.is_ending = False
        loaded.unlink(missing_ok=True)

    async def recover(self) -> None:
        """Finish or take back what we had begun when we were killed."""
        if self.status == "running":
            # Memory that was read back and runs on must never be read again.
            self.memory.unlink(missing_ok=True)
            self.memory.with_suffix(".loaded").unlink(missing_ok=True)
        elif self.status == "shutdown":  # only a clean reboot stops there
            await self.restart()
            await self._command("set-action", {"shutdown": "poweroff"})
        elif self.status in ("finish-migrate", "postmigrate"):
            await self._recover_save()

    async def _recover_save(self) -> None:
        """Finish a suspension whose memory is whole; else let the guest run on."""
        part = self.directory / "memory.part"
        status = (await self._command("query-migrate")).get("status")
        if status == "completed":
            if part.exists():
                self.finish_save()
            await self.power_off()
            self.status = "gone"
            return
        await self._command("migrate_cancel")
        part.unlink(missing_ok=True)
        await self.unpause()

    async def machine(self) -> str:
        """Tell the machine's versioned name: saved memory fits no other."""
        kind = await self._command("qom-get", {"path": "/machine", "property": "type"})
        return str(kind).removesuffix("-machine")

    async def _wait_for_migration(self) -> None:
        deadline = self._clock.monotonic() + MEMORY_TIMEOUT_S
        while True:
            answer: dict[str, Any] = await self._command("query-migrate")
            status = answer.get("status", "none")
            if status == "completed":
                return
            if status in ("failed", "cancelled") or self._clock.monotonic() > deadline:
                said = answer.get("error-desc", status)
                raise BackendError("INTERNAL_ERROR", f"memory could not be saved: {said}")
            await self._clock.sleep(0.05)

    async def _press_power_button(self, timeout_s: float, *, until: Callable[[], bool]) -> bool:
        deadline = self._clock.monotonic() + timeout_s
        while not until() and self._clock.monotonic() < deadline:
            self._changed.clear()
            with contextlib.suppress(BackendError):
                await self._command("system_powerdown")
            period_s = min(_POWER_BUTTON_PERIOD_S, deadline - self._clock.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    while not until():
                        await self._changed.wait()
                        self._changed.clear()
        return until()

    async def _command(
        self, name: str, arguments: dict[str, Any] | None = None, **rest: Any
    ) -> Any:
        try:
            if not self._qmp.is_connected:
                await self._qmp.connect(self.directory / MONITOR)
            return await self._qmp.command(name, arguments, **rest)
        except QmpError as error:
            raise BackendError("INTERNAL_ERROR", f"QEMU: {error}") from error

    def _take_event(self, name: str, data: dict[str, Any]) -> None:
        if name == "STOP":
            self.status = _STOPS.get(self._reason, "paused")
            if self.lacks_room:
                self._on_change(self, "paused", NO_ROOM)
        elif name == "BLOCK_IO_ERROR":
            # Other errors are the guest's to deal with; for room it waits.
            if data.get("action") == "stop":
                self._reason = "io-error"
        elif name == "RESUME":
            lacked_room = self.lacks_room
            self.status, self._reason = "running", ""
            if lacked_room:
                self._on_change(self, "running", NO_ROOM)
        elif name == "SHUTDOWN":
            self._reason = str(data.get("reason", ""))
        elif name == "GUEST_PANICKED":
            self._reason = "guest-panic"
        elif name == "RESET":
            self._take_reset(is_by_guest=bool(data.get("guest")))
        elif name == "VSERPORT_CHANGE" and not data.get("open"):
            self.on_port_close()
        self._changed.set()

    def _take_reset(self, *, is_by_guest: bool) -> None:
        now = self._clock.monotonic()
        is_echo = now - self._reset_at < _RESET_ECHO_S
        self._reset_at = now
        if is_by_guest and not is_echo:
            self._on_change(self, "running", "reboot")
