"""A store for clients outside of our process: the control domain's tools, and guests.

Tools connect to a unix socket that only its owner may open. A guest has a stream of its own, whose
other end is known to be that domain: under QEMU a virtio-serial port.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from xenith.core.clock import Clock
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.unix_sockets import bind_private
from xenith.xenstore.session import Session
from xenith.xenstore.store import CONTROL_DOMID, Store

_log = logger("xenstore")


class Server:
    """Serves one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self._tasks = TaskOwner("xenstore", clock)
        self._listening: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen(self, path: Path) -> None:
        """Let the control domain's tools in at a unix socket, as xenstored does."""
        self._path = path
        self._listening = await asyncio.start_unix_server(self._meet, sock=bind_private(path))

    async def serve_guest(
        self, domid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str:
        """Serve a domain over its one stream until that ends; tell what was wrong, if anything.

        A stream that it had before is let go.
        """
        domain = self.store.domains[domid]
        if domain.connection is not None:
            domain.connection.close()
        session = Session(self.store, domain, clock=self._clock, reader=reader, writer=writer)
        domain.connection = session.connection
        reason = await session.run()
        if reason:
            _log.warning("a guest's xenstore connection ends", domid=domid, reason=reason)
        return reason

    async def stop(self) -> None:
        """Let all tools go, and let no more in."""
        if self._listening is not None and self._path is not None:
            self._listening.close()
            self._path.unlink(missing_ok=True)
        await self._tasks.stop()

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        domain = self.store.domains[CONTROL_DOMID]
        session = Session(self.store, domain, clock=self._clock, reader=reader, writer=writer)
        self._tasks.start("tool", self._serve_tool(session))

    async def _serve_tool(self, session: Session) -> None:
        reason = await session.run()
        if reason:
            _log.warning("a tool's xenstore connection ends", reason=reason)
