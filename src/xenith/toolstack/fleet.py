"""Many hosts in one process, each at an address of its own, remembered in one journal.

After a restart each host has its records, its port and its uuid again; simulated domains live on,
real ones are found by their backend.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from xenith.core.errors import Conflict, Unavailable
from xenith.core.world import World
from xenith.toolstack.backends import Backend, DomainState
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.backends.sim_disks import SimDisk
from xenith.toolstack.classes import table
from xenith.toolstack.classes.pbd import attach_all
from xenith.toolstack.classes.sr import OPERATIONS
from xenith.toolstack.classes.vm import adopt, changed_by_itself, spec
from xenith.toolstack.journal import Entry, Journal
from xenith.toolstack.methods import is_null
from xenith.toolstack.objects import VOLATILE, Objects, Record
from xenith.toolstack.schema import CLASSES
from xenith.toolstack.server import EVENT_BATCH_S, HostServer
from xenith.toolstack.storage.records import PARENT_KEY, show_operations
from xenith.toolstack.transfer import TRANSFERS
from xenith.xapi import NULL

#: The pseudo-class under which the journal keeps a host's port.
_ADDRESS = "address"
#: Sets that follow from other records: class, its field, the class it names, the set there. They
#: are not kept, so that a change costs the same however many there are.
DERIVED = (
    ("VDI", "SR", "SR", "VDIs"),
    ("VDI", "snapshot_of", "VDI", "snapshots"),
    ("VBD", "VM", "VM", "VBDs"),
    ("VBD", "VDI", "VDI", "VBDs"),
    ("VIF", "VM", "VM", "VIFs"),
    ("VIF", "network", "network", "VIFs"),
    ("VM", "resident_on", "host", "resident_VMs"),
)
#: Fields that follow from others, by class.
_OF_THE_MOMENT = frozenset(("current_operations", "allowed_operations"))
_NOT_KEPT: dict[str, frozenset[str]] = {
    class_name: frozenset(field for _, _, holder, field in DERIVED if holder == class_name)
    | (_OF_THE_MOMENT if class_name in ("VM", "VDI") else frozenset())
    for class_name in CLASSES
}
_DOMAINS: dict[str, DomainState] = {
    "Running": "running",
    "Paused": "paused",
    "Suspended": "suspended",
}


class HostEndpoint(NamedTuple):
    """Where a host of the fleet is."""

    name: str
    url: str
    host_uuid: str


class Fleet:
    """The hosts of one process; ``directory`` None keeps nothing."""

    def __init__(
        self, world: World, directory: Path | None = None, *, event_batch_s: float = EVENT_BATCH_S
    ) -> None:
        self._world = world
        self._event_batch_s = event_batch_s
        self._journal = None if directory is None else Journal(directory / "journal")
        self._found: dict[str, dict[tuple[str, str], Record]] | None = None
        self._ports: dict[str, int] = {}
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
        listen: str = "127.0.0.1",
        port: int = 0,
    ) -> HostEndpoint:
        """Start a host; one that was here before is as it was, at the same port.

        Raises:
            Conflict: the fleet has a host of that name.
            Unavailable: its port is taken.
        """
        if name in self.hosts:
            raise Conflict(f"the fleet has a host named {name}", name=name)
        found = self._read().pop(name, {})
        self._ports.setdefault(name, found.pop((_ADDRESS, ""), {}).get("port", 0))
        objects = Objects(self._world, keep=self._keeper(name))
        host = HostServer(
            self._world,
            objects,
            backend,
            name=name,
            password=password,
            methods=table(),
            transfers=TRANSFERS,
            event_batch_s=self._event_batch_s,
            flush=self._flush,
        )
        self.hosts[name] = host
        if found:
            for (class_name, ref), record in found.items():
                objects.load(class_name, ref, record)
            _forget_half_made(objects)
            if isinstance(backend, SimBackend):
                _hand_over(host, backend)
        else:
            _furnish(host)
        await backend.start(
            lambda uuid, state, reason: changed_by_itself(host, uuid, state, reason)
        )
        _bring_up_to_date(host)
        await attach_all(host)
        adopt(host, dict(await backend.running()))
        for vdi in objects.all("VDI"):
            show_operations(host, vdi)
        try:
            bound = await host.listen(listen, port or self._ports[name])
        except Unavailable:
            await self._put_back(name, host)
            raise
        self._ports[name] = bound
        self._write(name, _ADDRESS, "", {"port": bound})
        own = objects.only("host")
        objects.update("host", own, address=host.address)
        return HostEndpoint(name, f"http://{host.address}", objects.get("host", own)["uuid"])

    async def _put_back(self, name: str, host: HostServer) -> None:
        """Take a host that did not come up out again; what is known of it stays."""
        known = {(entry.class_name, entry.ref): entry.record or {} for entry in self._of(name)}
        del self.hosts[name]
        self._read()[name] = known
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
        if self._journal is not None:
            self._journal.close()

    # -- the journal

    def _read(self) -> dict[str, dict[tuple[str, str], Record]]:
        if self._found is not None:
            return self._found
        found: dict[str, dict[tuple[str, str], Record]] = {}
        for entry in self._journal.read() if self._journal is not None else ():
            objects = found.setdefault(entry.host, {})
            key = (entry.class_name, entry.ref)
            if entry.record is None:
                objects.pop(key, None)
            elif entry.class_name in CLASSES or entry.class_name == _ADDRESS:
                objects.setdefault(key, {}).update(entry.record)
        self._found = found
        if self._journal is not None:
            # Hosts that are not added this time keep their records.
            self._journal.begin(_kept(found))
        return found

    def _entries(self) -> Iterable[Entry]:
        for name in self.hosts:
            yield from self._of(name)
        yield from _kept(self._found or {})

    def _of(self, name: str) -> Iterable[Entry]:
        yield Entry(name, _ADDRESS, "", {"port": self._ports[name]})
        for class_name in CLASSES:
            if class_name in VOLATILE:
                continue
            for ref, record in self.hosts[name].objects.all(class_name).items():
                yield Entry(name, class_name, ref, _worth_keeping(class_name, record))

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


def _furnish(host: HostServer) -> None:
    """Make what every host has: itself, its pool, an SR and a network for its management."""
    objects = host.objects
    metrics = objects.create("host_metrics")
    own = objects.create(
        "host",
        name_label=host.name,
        hostname=host.name,
        metrics=metrics,
        name_description=f"Xenith toolstack, {host.backend.name}",
    )
    sr = objects.create(
        "SR",
        name_label="Local storage",
        type="file",
        content_type="user",
        allowed_operations=OPERATIONS,
    )
    pbd = objects.create("PBD", host=own, SR=sr, currently_attached=True)
    network = objects.create("network", name_label="Management", bridge="xenbr0")
    pif = objects.create(
        "PIF",
        host=own,
        network=network,
        device="eth0",
        management=True,
        physical=True,
        currently_attached=True,
        IP="127.0.0.1",
    )
    objects.update("SR", sr, PBDs=[pbd])
    objects.update("network", network, PIFs=[pif])
    objects.update("host", own, PBDs=[pbd], PIFs=[pif], suspend_image_sr=sr, crash_dump_sr=sr)
    objects.create("pool", master=own, default_SR=sr, suspend_image_SR=sr, crash_dump_SR=sr)


def _bring_up_to_date(host: HostServer) -> None:
    """Write what may differ from one process to the next: capacity, versions, time."""
    from xenith import __version__  # noqa: PLC0415 - one value

    objects, capacity = host.objects, host.backend.capacity()
    own = objects.only("host")
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
    )
    objects.update(
        "host_metrics",
        objects.only("host_metrics"),
        memory_total=capacity.memory_bytes,
        live=True,
        last_updated=host.now(),
    )


def _forget_half_made(objects: Objects) -> None:
    """Remove what a crash cut short, and fill the sets that are derived from other records.

    Disks that were being made are left to whoever attaches their SR.
    """
    for class_name in ("VBD", "VIF"):
        for ref, record in list(objects.all(class_name).items()):
            if objects.find("VM", record["VM"]) is None:
                objects.delete(class_name, ref)
    for ref, record in objects.all("VBD").items():
        if not is_null(record["VDI"]) and objects.find("VDI", record["VDI"]) is None:
            objects.update("VBD", ref, VDI=NULL, empty=True)
    for of, field, holder, holder_field in DERIVED:
        for ref, record in objects.all(of).items():
            objects.link(holder, record[field], holder_field, ref)


def _hand_over(host: HostServer, backend: SimBackend) -> None:
    """Tell a simulated host what it ran in the process before."""
    vms, disks = host.objects.all("VM").values(), host.objects.all("VDI").values()
    domids = [record["domid"] for record in vms]
    for record in vms:
        last = record["other_config"].get("last_dom_id", "")
        # Clients may write anything there.
        if last.isascii() and last.isdigit() and len(last) < 10:
            domids.append(int(last))
    backend.adopt(
        _domains(host.objects),
        {record["uuid"]: _sim_disk(host, record) for record in disks},
        specs={record["uuid"]: spec(host, record) for record in vms},
        last_domid=max([0, *domids]),
    )


def _sim_disk(host: HostServer, record: Record) -> SimDisk:
    sr = host.objects.find("SR", record["SR"])
    return SimDisk(
        record["virtual_size"],
        record["physical_utilisation"],
        record["sm_config"].get(PARENT_KEY),
        is_hidden=not record["managed"],
        sr_uuid="" if sr is None else sr["uuid"],
    )


def _domains(objects: Objects) -> dict[str, DomainState]:
    return {
        record["uuid"]: _DOMAINS[record["power_state"]]
        for record in objects.all("VM").values()
        if record["power_state"] in _DOMAINS
    }
