"""Many hosts in one process, each at an address of its own, remembered in one journal.

After a restart each host has its records, its port and its uuid again; simulated domains live on,
real ones are found by their backend.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xenith.core.errors import Conflict, Unavailable
from xenith.core.world import World
from xenith.toolstack import tls
from xenith.toolstack.backends import Backend, DomainListener
from xenith.toolstack.backends.live import XenstoreBackend
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.classes import certificates, table
from xenith.toolstack.classes.host import show_operations
from xenith.toolstack.classes.lifecycle import adopt, changed_by_itself
from xenith.toolstack.classes.live import guest_wrote
from xenith.toolstack.classes.pbd import attach_all
from xenith.toolstack.furnishing import furnish, move_in
from xenith.toolstack.journal import Entry, Journal
from xenith.toolstack.objects import VOLATILE, Objects, Record
from xenith.toolstack.pool import Pool
from xenith.toolstack.recovery import DERIVED, forget_half_made, hand_over
from xenith.toolstack.roles import Account
from xenith.toolstack.rrd import handlers as measures
from xenith.toolstack.rrd.sampler import sampler_of
from xenith.toolstack.schema import CLASSES
from xenith.toolstack.server import EVENT_BATCH_S, HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.transfer import TRANSFERS
from xenith.toolstack.xva import handlers as archives

#: What the file SRs can do with disks. Source: XenAPI SM.features.
_FEATURES = ("CREATE", "DELETE", "CLONE", "INTRODUCE", "RESIZE", "SNAPSHOT")
#: The pseudo-class under which the journal keeps a host's port.
_ADDRESS = "address"
#: Fields that follow from others, by class.
_OF_THE_MOMENT = frozenset(("current_operations", "allowed_operations"))
_NOT_KEPT: dict[str, frozenset[str]] = {
    class_name: frozenset(field for _, _, holder, field in DERIVED if holder == class_name)
    | (_OF_THE_MOMENT if class_name in ("VM", "VDI") else frozenset())
    for class_name in CLASSES
}


class HostEndpoint(NamedTuple):
    """Where a host of the fleet is."""

    name: str
    url: str
    host_uuid: str
    #: SHA-256 of its certificate, in hex; nothing without TLS.
    pin: str = ""


class Fleet:
    """The hosts of one process; ``directory`` None keeps nothing."""

    def __init__(
        self, world: World, directory: Path | None = None, *, event_batch_s: float = EVENT_BATCH_S
    ) -> None:
        self._world = world
        self._event_batch_s = event_batch_s
        self._directory = directory
        self._journal = None if directory is None else Journal(directory / "journal")
        self._found: dict[str, dict[tuple[str, str], Record]] | None = None
        #: Where each host is: its port, whose database it shares, its record there.
        self._ports: dict[str, dict[str, Any]] = {}
        self._pools: dict[str, Pool] = {}
        #: Not while hosts are being read from it.
        self._may_rewrite = False
        self.hosts: dict[str, HostServer] = {}
        _allow_many_files()

    async def add_host(
        self,
        name: str,
        backend: Backend,
        *,
        password: str,
        accounts: Mapping[str, Account] | None = None,
        listen: str = "127.0.0.1",
        port: int = 0,
        is_tls: bool = False,
    ) -> HostEndpoint:
        """Start a host; one that was here before is as it was, at the same port.

        With ``is_tls`` it speaks TLS and nothing else, by a certificate made at its first start.

        Raises:
            Conflict: the fleet has a host of that name.
            Unavailable: its port is taken.
        """
        if name in self.hosts:
            raise Conflict(f"the fleet has a host named {name}", name=name)
        self._read()
        known = self._ports.get(name, {})
        database = known.get("database", name)
        pool = self._pools.get(database)
        found = {} if pool is not None else self._read().pop(database, {})
        host = HostServer(
            self._world,
            Objects(self._world, keep=self._keeper(database)),
            backend,
            name=name,
            password=password,
            methods=table(),
            transfers={**TRANSFERS, **measures.HANDLERS, **archives.HANDLERS},
            event_batch_s=self._event_batch_s,
            flush=self._flush,
            accounts=accounts,
        )
        host.fleet = self
        self.hosts[name] = host
        if pool is None:
            pool = self._pools[database] = host.pool
            pool.name = database
            if found:
                for (class_name, ref), record in found.items():
                    pool.objects.load(class_name, ref, record)
                forget_half_made(pool.objects)
            else:
                furnish(host)
        own = known.get("host") or pool.objects.only("host")
        master = pool.objects.get("pool", pool.objects.only("pool"))["master"]
        host.enter(pool, own, is_coordinator=master == own)
        if isinstance(backend, SimBackend) and (found or len(pool.members) > 1):
            hand_over(host, backend)
        await backend.start(self._listener(host))
        if isinstance(backend, XenstoreBackend):
            backend.watch_xenstore(lambda uuid: self._hear_guest(host, uuid))
        _bring_up_to_date(host)
        await attach_all(host)
        if is_tls:
            if self._directory is not None:
                host.identity_path = self._directory / "tls" / f"{name}.pem"
            now_s = self._world.clock.now()
            identity = tls.load_or_make(host.identity_path, name, listen, now_s=now_s)
            certificates.install(host, identity)
        adopt(host, dict(await backend.running()))
        for vdi in pool.objects.all("VDI"):
            records.show_operations(host, vdi)
        try:
            bound = await host.listen(listen, port or known.get("port", 0))
        except Unavailable:
            await self._put_back(name, host)
            raise
        if not isinstance(backend, SimBackend):
            rrds = None if self._directory is None else self._directory / "rrd" / name
            sampler_of(host).begin(rrds)
        self._ports[name] = {"port": bound, "database": database, "host": own}
        self._write_place(name)
        pool.objects.update("host", own, address=host.address)
        uuid = pool.objects.get("host", own)["uuid"]
        return HostEndpoint(name, host.url, uuid, host.pin)

    @staticmethod
    def _listener(host: HostServer) -> DomainListener:
        # The coordinator may not be up yet; what it would write is the same.
        return lambda uuid, state, reason: changed_by_itself(
            host.pool.coordinator or host, uuid, state, reason
        )

    @staticmethod
    def _hear_guest(host: HostServer, vm_uuid: str) -> None:
        if host.is_up:
            host.tasks.start(
                "guest's xenstore", guest_wrote(host.pool.coordinator or host, vm_uuid)
            )

    # -- pools

    def find(self, address: str) -> HostServer | None:
        """Find a host by its address."""
        return next((host for host in self.hosts.values() if host.address == address), None)

    def join(self, host: HostServer, pool: Pool) -> None:
        """Have a host leave its own pool for another's."""
        left = host.pool
        ref = move_in(host, pool)
        host.enter(pool, ref, is_coordinator=False)
        self._forget(left)
        self._ports[host.name].update(database=pool.name, host=ref)
        self._write_place(host.name)

    def leave(self, host: HostServer) -> None:
        """Have a host leave its pool and be one of its own, as new."""
        del host.pool.members[host.ref]
        database = host.name
        while database in self._pools:
            # Its first pool may be led by another host now.
            database = f"{database}'"
        pool = Pool(
            Objects(self._world, keep=self._keeper(database)), self._world.ids, name=database
        )
        self._pools[database] = pool
        host.pool = pool
        furnish(host)
        host.enter(pool, pool.objects.only("host"), is_coordinator=True)
        _bring_up_to_date(host)
        pool.objects.update("host", host.ref, address=host.address)
        if host.identity is not None:
            certificates.install(host, host.identity)
        self._ports[host.name].update(database=database, host=host.ref)
        self._write_place(host.name)

    def _forget(self, pool: Pool) -> None:
        del self._pools[pool.name]
        for class_name in CLASSES:
            if class_name not in VOLATILE:
                for ref in pool.objects.all(class_name):
                    self._write(pool.name, class_name, ref, None)

    async def _put_back(self, name: str, host: HostServer) -> None:
        """Take a host that did not come up out again; what is known of it stays."""
        del self.hosts[name], host.pool.members[host.ref]
        if not host.pool.members:
            entries = self._of(host.pool)
            known = {(entry.class_name, entry.ref): entry.record or {} for entry in entries}
            self._read()[host.pool.name] = known
            del self._pools[host.pool.name]
        await host.stop()

    async def start(self) -> None:
        """Begin the journal anew, with what the hosts have now."""
        if self._journal is not None and self._found is None:
            self._read()
        if self._journal is not None:
            self._journal.close()
            self._journal.begin(self._entries())
            self._may_rewrite = True

    async def stop(self) -> None:
        """Stop all hosts; domains live on."""
        self._may_rewrite = False
        for host in self.hosts.values():
            await host.stop()
        self.hosts.clear()
        self._pools.clear()
        if self._journal is not None:
            self._journal.close()

    # -- the journal

    def _read(self) -> dict[str, dict[tuple[str, str], Record]]:
        if self._found is not None:
            return self._found
        found: dict[str, dict[tuple[str, str], Record]] = {}
        for entry in self._journal.read() if self._journal is not None else ():
            if entry.class_name == _ADDRESS:
                # Before hosts had pools, an address had no name.
                self._take_place(entry.ref or entry.host, entry.host, entry.record)
                continue
            objects = found.setdefault(entry.host, {})
            key = (entry.class_name, entry.ref)
            if entry.record is None:
                objects.pop(key, None)
            elif entry.class_name in CLASSES:
                objects.setdefault(key, {}).update(entry.record)
        self._found = found
        if self._journal is not None:
            # Hosts that are not added this time keep their records.
            self._journal.begin(self._entries())
        return found

    def _take_place(self, name: str, database: str, place: dict[str, Any] | None) -> None:
        if place is not None:
            self._ports[name] = {"database": database, **place}
        elif self._ports.get(name, {}).get("database") == database:
            del self._ports[name]

    def _entries(self) -> Iterable[Entry]:
        for name, place in self._ports.items():
            yield Entry(place["database"], _ADDRESS, name, place)
        for pool in self._pools.values():
            yield from self._of(pool)
        yield from _kept(self._found or {})

    def _of(self, pool: Pool) -> Iterable[Entry]:
        for class_name in CLASSES:
            if class_name in VOLATILE:
                continue
            for ref, record in pool.objects.all(class_name).items():
                yield Entry(pool.name, class_name, ref, _worth_keeping(class_name, record))

    def _write_place(self, name: str) -> None:
        if self._journal is None:
            return
        place = self._ports[name]
        self._write(place["database"], _ADDRESS, name, dict(place))

    def _flush(self) -> None:
        if self._journal is not None:
            self._journal.flush()

    def _keeper(self, name: str) -> Any:
        if self._journal is None:
            return None
        return lambda class_name, ref, record: self._write(name, class_name, ref, record)

    def _write(self, name: str, class_name: str, ref: str, record: Record | None) -> None:
        if self._journal is None:
            return
        if record is not None:
            record = _worth_keeping(class_name, record)
            if not record:
                return
        self._journal.write(name, class_name, ref, record)
        if self._may_rewrite and self._journal.is_overgrown:
            self._journal.close()
            self._journal.begin(self._entries())


def _allow_many_files() -> None:
    """Raise the number of files this process may open: a thousand hosts are some thousand sockets.

    The soft limit is low for programs that still use select(), which cannot take larger numbers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _worth_keeping(class_name: str, record: Record) -> Record:
    derived = _NOT_KEPT.get(class_name, frozenset())
    if derived.isdisjoint(record):
        return record
    return {field: value for field, value in record.items() if field not in derived}


def _kept(found: dict[str, dict[tuple[str, str], Record]]) -> Iterable[Entry]:
    for name, objects in found.items():
        for (class_name, ref), record in objects.items():
            yield Entry(name, class_name, ref, record)


def _bring_up_to_date(host: HostServer) -> None:
    """Write what may differ from one process to the next: capacity, versions, time."""
    from xenith import __version__  # noqa: PLC0415 - one value

    objects, capacity = host.objects, host.engine.capacity()
    own = host.ref
    boot = objects.get("host", own)["other_config"].get("boot_time")
    now = f"{host.world.clock.now():.0f}"
    objects.update(
        "host",
        own,
        software_version={
            "product_brand": "Xenith",
            "product_version": __version__,
            "xapi": "1.20",
            "platform_name": "Xenith",
            "platform_version": __version__,
            "build_number": __version__,
            "hostname": host.name,
        },
        cpu_info={
            "cpu_count": str(capacity.cpu_count),
            "socket_count": "1",
            "modelname": capacity.cpu_model,
            "vendor": "",
            "speed": "",
        },
        other_config={
            **objects.get("host", own)["other_config"],
            "boot_time": boot or now,
            "agent_start_time": now,
        },
        capabilities=["hvm-3.0-x86_64"],
        editions=["free"],
    )
    show_operations(host, own)
    objects.update(
        "host_metrics",
        objects.get("host", own)["metrics"],
        memory_total=capacity.memory_bytes,
        live=True,
        last_updated=host.now(),
    )
    if not objects.all("SM"):
        objects.create(
            "SM",
            name_label="File",
            name_description="Disks as files in a directory",
            type="file",
            vendor="Xenith",
            version=__version__,
            required_api_version="1.0",
            capabilities=[f"VDI_{name}" for name in _FEATURES],
            features={f"VDI_{name}": "1" for name in _FEATURES},
            supported_image_formats=["vhd"],
        )
