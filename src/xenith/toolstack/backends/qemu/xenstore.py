"""The xenstore of guests in QEMU: each has a virtio-serial port that speaks the protocol.

    guest: /dev/virtio-ports/org.xenith.xenstore.0 ── QEMU ── xenstore.sock ── us, as its domid

A port that the guest closes, or whose machine is reset, is a connection that ends: its watches and
transactions go, and half a frame with them. What a guest sends in that moment may be lost, so a
client that has just opened the port asks again until it is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from xenith.core.clock import Clock
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.unix_sockets import open_unix
from xenith.toolstack.backends.qemu.command import XENSTORE
from xenith.toolstack.backends.qemu.domain import Domain
from xenith.toolstack.backends.trees import DomainTrees
from xenith.xenstore import Server

#: Where the host's own tools find the store, beside the domains' directories.
SOCKET = "xenstored.sock"
#: Until a port is listened to again: after its guest closed it, and after it broke the protocol.
_AGAIN_S, _AGAIN_AFTER_FAULT_S = 0.05, 1.0
#: How often it is told that guests have changed something, however often they do.
_TELL_PERIOD_S = 0.5
_log = logger("toolstack.qemu")


class GuestStores:
    """One host's xenstore, served to the domains that live."""

    def __init__(self, clock: Clock, tasks: TaskOwner) -> None:
        self.trees = DomainTrees(self._note)
        #: Told the VMs whose guests have written something.
        self.listener: Callable[[str], None] = lambda _uuid: None
        self._clock = clock
        self._tasks = tasks
        self._server = Server(self.trees.store, clock)
        self._served: dict[str, Domain] = {}
        self._changed: dict[str, None] = {}
        self._has_changed = asyncio.Event()

    async def start(self, directory: Path) -> None:
        """Begin to tell of what guests write, and let the host's tools in."""
        await self._server.listen(directory / SOCKET)
        self._tasks.keep("xenstore", self._tell, restart_delay_s=_TELL_PERIOD_S)

    async def stop(self) -> None:
        """Let all go; the guests find nobody at their ports until we are back."""
        for domain in tuple(self._served.values()):
            self.end(domain)
        await self._server.stop()

    def begin(self, domain: Domain) -> None:
        """Make a domain's tree and serve its port until it ends."""
        spec = domain.record.spec
        self._served[domain.uuid] = domain
        self.trees.begin(domain.uuid, domain.record.domid, label=spec.name, keys=spec.xenstore)
        domain.on_port_close = lambda: self._close(domain)
        if domain.record.has_xenstore:
            self._tasks.start("xenstore port", self._serve(domain))

    def renew(self, domain: Domain) -> None:
        """Begin again under the domain's new domid."""
        if self._served.get(domain.uuid) is domain:
            self.trees.renew(domain.uuid, domain.record.domid)

    def end(self, domain: Domain) -> None:
        """Remove the tree of a domain that has ended, unless another has its name by now."""
        if self._served.get(domain.uuid) is domain:
            del self._served[domain.uuid]
            self.trees.end(domain.uuid)

    def _close(self, domain: Domain) -> None:
        held = self.trees.store.domains.get(domain.record.domid)
        if held is not None and held.connection is not None:
            held.connection.close()

    async def _serve(self, domain: Domain) -> None:
        while self._served.get(domain.uuid) is domain:
            pause_s = _AGAIN_S
            try:
                reader, writer = await open_unix(domain.directory / XENSTORE)
            except OSError as error:
                if domain.process.ended.done():
                    return
                _log.debug("a port is not there", vm=domain.uuid, error=repr(error))
                pause_s = _AGAIN_AFTER_FAULT_S
            else:
                if self._served.get(domain.uuid) is not domain:
                    writer.close()
                    return
                if await self._server.serve_guest(domain.record.domid, reader, writer):
                    pause_s = _AGAIN_AFTER_FAULT_S
            await self._clock.sleep(pause_s)

    def _note(self, vm_uuid: str) -> None:
        self._changed[vm_uuid] = None
        self._has_changed.set()

    async def _tell(self) -> None:
        """Tell of what has changed meanwhile; run again after each pause."""
        await self._has_changed.wait()
        self._has_changed.clear()
        changed, self._changed = self._changed, {}
        for vm_uuid in changed:
            self.listener(vm_uuid)
