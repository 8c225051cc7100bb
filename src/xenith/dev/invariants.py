"""What must hold when a cloud has settled, whatever was refused, hung or killed before.

    problems = await find_problems(db, await records_of(hosts), table=cell.hosts.table)
    assert problems == []

Rows are read from the database, hosts are asked over XenAPI, and the scheduler's table is looked at
where the process that has it is this one. Each thing wrong is one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from xenith.cells.intents import count_open
from xenith.compute.records import quotas as compute_quotas
from xenith.compute.records.hosts import hosts as host_rows
from xenith.compute.records.instances import allocations, instances
from xenith.compute.records.servers import servers
from xenith.core.ids import HostId, InstanceId
from xenith.db import Database, Row, Tx
from xenith.driver.flavor_disks import flavor_disks
from xenith.driver.names import (
    INSTANCE_KEY,
    config_name,
    instance_of,
    is_complete_image,
    rescue_config_name,
    rescue_name,
    root_name,
    vm_name,
)
from xenith.network.records.ports import PORTS
from xenith.network.records.quotas import QUOTAS
from xenith.saga.definition import OPEN_STATES
from xenith.saga.records import SAGAS
from xenith.scheduler.hosts import HostTable
from xenith.xapi import XapiSession

#: vm_states in which a server has its VM, and the power states that the VM may then have.
POWERS = {
    "active": ("Running",),
    "paused": ("Paused",),
    "stopped": ("Halted",),
    "suspended": ("Suspended",),
    "rescued": ("Running", "Halted"),
    "resized": ("Running", "Halted"),
}
CLASSES = ("VM", "VDI", "VBD", "VIF")
#: Objects of one class by reference.
Objects = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class HostRecords:
    """All that one host has, as XenAPI tells it."""

    name: str
    objects: Mapping[str, Objects]

    def of(self, class_name: str) -> Objects:
        """Give the objects of a class."""
        return self.objects[class_name]


@dataclass
class Rows:
    """All rows that say something about servers."""

    servers: list[Row]
    instances: dict[str, Row]
    allocations: dict[str, Row]
    hosts: dict[str, Row]
    ports: list[Row]
    usage: dict[str, dict[str, int]]
    ports_used: dict[str, int]
    open_count: int
    open_sagas: list[Row]
    #: What a cell has and should not, as sentences.
    strays: list[str] = field(default_factory=list)
    living: dict[str, Row] = field(init=False)

    def __post_init__(self) -> None:
        self.living = {row.id: row for row in self.servers if row.deleted_at is None}


async def records_of(addresses: Mapping[str, str], *, password: str) -> list[HostRecords]:
    """Ask hosts, given as URLs by name, for all that they have."""
    found = []
    for name, url in addresses.items():
        session = await XapiSession.login(url, user="root", password=password, originator="check")
        try:
            objects = {kind: await session.call(f"{kind}.get_all_records") for kind in CLASSES}
        finally:
            await session.logout()
        found.append(HostRecords(name, objects))
    return found


def read_rows(tx: Tx) -> Rows:
    """Read all rows of a cloud of one cell. Transaction function."""
    return Rows(
        servers=tx.list(servers),
        instances={row.id: row for row in tx.list(instances)},
        ports=tx.list(PORTS),
        usage={
            row.project_id: {"instances": row.instances, "cores": row.cores, "ram": row.ram}
            for row in tx.list(compute_quotas.quota_usages)
        },
        ports_used={row.project_id: row.used_count for row in tx.list(QUOTAS, resource="port")},
        **read_cell(tx),
    )


def read_cell(tx: Tx) -> dict[str, Any]:
    """Read the rows of a leaf that no parent has. Transaction function."""
    return {
        "allocations": {row.instance_id: row for row in tx.list(allocations)},
        "hosts": {row.id: row for row in tx.list(host_rows)},
        "open_count": sum(count_open(tx).values()),
        "open_sagas": tx.all(sa.select(SAGAS).where(SAGAS.c.state.in_(OPEN_STATES))),
    }


async def find_problems(
    db: Database, hosts: Iterable[HostRecords], *, table: HostTable | None = None
) -> list[str]:
    """Find all that is wrong with a cloud of one cell; ``hosts`` are those that are up."""
    rows = await db.read(read_rows)
    problems = find_in_rows(rows, list(hosts))
    if table is not None:
        problems.extend(find_in_table(rows.hosts, rows.allocations, table))
    return problems


def join_rows(root: Rows, leaves: Mapping[str, tuple[list[Row], dict[str, Any]]]) -> Rows:
    """Put together what a root and its leaves have, by cell: own instances, and ``read_cell``.

    A server's instance is that of the cell that the root names.
    """
    cell_of = {row.id: row.cell_id for row in root.servers}
    root.instances = {
        row.id: row
        for cell_id, (own, _) in leaves.items()
        for row in own
        if cell_of.get(row.id) == cell_id
    }
    for own, found in leaves.values():
        root.allocations |= found["allocations"]
        root.hosts |= found["hosts"]
        root.open_count += found["open_count"]
        root.open_sagas += found["open_sagas"]
        for row in own:
            if cell_of.get(row.id) != row.cell_id and row.vm_state != "deleted":
                root.strays.append(
                    f"cell {row.cell_id} has server {row.id} as {row.vm_state}, which the root "
                    f"gave to {cell_of.get(row.id)}"
                )
    return root


def find_in_rows(rows: Rows, hosts: list[HostRecords]) -> list[str]:
    """Find what is wrong between rows and hosts."""
    return [
        *rows.strays,
        *_unsettled(rows),
        *_servers(rows),
        *_ports(rows),
        *_usage(rows),
        *_allocations(rows),
        *(problem for host in hosts for problem in _host(rows, host)),
        *_machines(rows, hosts),
    ]


def _unsettled(rows: Rows) -> Iterator[str]:
    if rows.open_count:
        yield f"{rows.open_count} intents have no verdict"
    for row in rows.open_sagas:
        yield f"saga {row.kind} of {row.subject} is {row.state} at step {row.step}: {row.error}"


def _servers(rows: Rows) -> Iterator[str]:
    for server_id in rows.living:
        yield from _server(rows, server_id)
    for server in rows.servers:
        instance = rows.instances.get(server.id)
        if server.deleted_at is None or instance is None:
            continue
        if instance.vm_state != "deleted" or instance.host_id is not None:
            yield f"server {server.id} was deleted and its instance is {instance.vm_state}"


def _server(rows: Rows, server_id: str) -> Iterator[str]:
    server, instance = rows.living[server_id], rows.instances.get(server_id)
    if instance is None:
        if not (server.fault or {}).get("message"):
            yield f"server {server_id} was never taken by a cell"
        return
    if instance.cell_id != server.cell_id:
        yield f"server {server_id} is in cell {instance.cell_id}, not {server.cell_id}"
    if instance.task_state is not None:
        yield f"server {server_id} is {instance.vm_state} and still {instance.task_state}"
    if server.intent_number != instance.applied_intent:
        yield f"server {server_id} has an intent that was not applied"
    if instance.vm_state == "error":
        if not (instance.fault or {}).get("message"):
            yield f"server {server_id} is in ERROR without a message"
    elif instance.vm_state not in POWERS:
        yield f"server {server_id} is {instance.vm_state}"
    elif instance.host_id is None:
        yield f"server {server_id} is {instance.vm_state} on no host"
    if instance.request is not None:
        yield f"server {server_id} keeps the request of its build"


def _ports(rows: Rows) -> Iterator[str]:
    by_server: dict[str, set[str]] = {}
    for port in rows.ports:
        if not port.device_owner.startswith("compute:"):
            continue
        by_server.setdefault(port.device_id, set()).add(port.id)
        instance = rows.instances.get(port.device_id)
        if port.device_id in rows.living and instance is None:
            if port.status != "DOWN" or port.host_id:
                yield f"port {port.id} of a server in no cell is {port.status}"
        elif port.device_id not in rows.living or instance is None:
            yield f"port {port.id} is of server {port.device_id}, which is gone"
        elif instance.vm_state in POWERS:
            if (port.status, port.host_id) != ("ACTIVE", instance.host_name):
                yield f"port {port.id} of a {instance.vm_state} server is {port.status}"
        elif instance.host_id is None and (port.status != "DOWN" or port.host_id):
            yield f"port {port.id} of a server on no host is {port.status} at {port.host_id}"
    for server_id, server in rows.living.items():
        expected = {port["id"] for port in server.ports}
        if by_server.get(server_id, set()) != expected:
            yield f"server {server_id} has ports {by_server.get(server_id)}, not {expected}"


def _usage(rows: Rows) -> Iterator[str]:
    expected: dict[str, Counter[str]] = {}
    for server in rows.living.values():
        used = expected.setdefault(server.project_id, Counter())
        cores, ram_mib = compute_quotas.held_by(server)
        used.update(instances=1, cores=cores, ram=ram_mib)
    for project_id in rows.usage.keys() | expected.keys():
        kept = {name: count for name, count in rows.usage.get(project_id, {}).items() if count}
        if kept != dict(expected.get(project_id, {})):
            yield f"project {project_id} has usage {kept}, not {dict(expected.get(project_id, {}))}"
    ports = Counter(port.project_id for port in rows.ports)
    for project_id in rows.ports_used.keys() | ports.keys():
        if rows.ports_used.get(project_id, 0) != ports[project_id]:
            yield (
                f"project {project_id} uses {rows.ports_used.get(project_id)} ports and has "
                f"{ports[project_id]}"
            )


def _allocations(rows: Rows) -> Iterator[str]:
    placed = {
        row.id: row.host_id
        for row in rows.instances.values()
        if row.host_id is not None and row.vm_state != "deleted"
    }
    held = {row.instance_id: row.host_id for row in rows.allocations.values()}
    if placed != held:
        yield f"instances are placed {placed} and have allocations {held}"
    for server_id, row in rows.allocations.items():
        server = rows.living.get(server_id)
        if server is None:
            continue
        expected = compute_quotas.held_by(server)
        if (row.vcpus, row.ram_mib) != expected or row.disk_gib < server.flavor["disk"]:
            yield f"server {server_id} holds {row}, and its sizes ask for {expected}"


def _host(rows: Rows, host: HostRecords) -> Iterator[str]:
    vms, vdis = host.of("VM"), host.of("VDI")
    for kind, owners in (("VBD", ("VM", "VDI")), ("VIF", ("VM",))):
        for record in host.of(kind).values():
            for owner in owners:
                if record[owner] not in host.of(owner):
                    yield f"{host.name} has a {kind} without its {owner}"
    yield from _images(host)
    here = {row.id for row in rows.hosts.values() if row.name == host.name}
    assert here, f"no row is of host {host.name}"
    for record in (*vms.values(), *vdis.values()):
        instance_id = instance_of(record["name_label"])
        if instance_id is None:
            continue
        instance = rows.instances.get(instance_id)
        if instance is None or instance.host_id not in here or instance.vm_state == "deleted":
            yield f"{host.name} has {record['name_label']}, left over"


def _images(host: HostRecords) -> Iterator[str]:
    images: Counter[str] = Counter()
    for record in host.of("VDI").values():
        # What is not managed is the storage's own: the parents of clones.
        if record["managed"] and instance_of(record["name_label"]) is None:
            if not is_complete_image(record):
                yield f"{host.name} has the stray disk {record['name_label']!r}"
            else:
                images[record["name_label"]] += 1
    for name, count in images.items():
        if count > 1:
            yield f"{host.name} has {name} {count} times"


def _machines(rows: Rows, hosts: list[HostRecords]) -> Iterator[str]:
    up = {host.name: host for host in hosts}
    for server_id, server in rows.living.items():
        instance = rows.instances.get(server_id)
        if instance is None or instance.host_name not in up or instance.vm_state not in POWERS:
            continue
        host = up[instance.host_name]
        found = [
            (ref, vm)
            for ref, vm in host.of("VM").items()
            if vm["other_config"].get(INSTANCE_KEY) == server_id
            or vm["name_label"] == vm_name(server_id)
        ]
        if len(found) != 1:
            yield f"{host.name} has {len(found)} VMs of server {server_id}"
            continue
        ((ref, vm),) = found
        size = server.flavor["vcpus"], server.flavor["ram"] * 2**20
        if (int(vm["VCPUs_max"]), int(vm["memory_static_max"])) != size:
            yield f"server {server_id} has a VM of another size than {size}"
        if vm["power_state"] not in POWERS[instance.vm_state]:
            yield f"server {server_id} is {instance.vm_state} and its VM {vm['power_state']}"
        disks = sorted(
            vdi["name_label"]
            for vdi in host.of("VDI").values()
            if instance_of(vdi["name_label"]) == server_id
        )
        wanted, attached = _disk_names(server, is_rescued=instance.vm_state == "rescued")
        if disks != sorted(wanted):
            yield f"server {server_id} has the disks {disks}"
        plugged = sorted(
            host.of("VDI")[vbd["VDI"]]["name_label"]
            for vbd in host.of("VBD").values()
            if vbd["VM"] == ref and vbd["VDI"] in host.of("VDI")
        )
        if plugged != sorted(attached):
            yield f"the VM of server {server_id} has the disks {plugged}"
        macs = sorted(vif["MAC"] for vif in host.of("VIF").values() if vif["VM"] == ref)
        if macs != sorted(port["mac"] for port in server.ports):
            yield f"the VM of server {server_id} has the cards {macs}"


def _disk_names(server: Row, *, is_rescued: bool) -> tuple[list[str], list[str]]:
    """Give the names of a server's disks, and of those that its VM has."""
    flavor = server.flavor
    sizes = {"swap_mib": flavor["swap"], "ephemeral_gib": flavor["ephemeral"]}
    own = [root_name(server.id), *(disk.name for disk in flavor_disks(server.id, **sizes))]
    drive = [config_name(server.id)] if server.config_drive else []
    if not is_rescued:
        return [*own, *drive], [*own, *drive]
    rescue = [rescue_name(server.id)]
    if server.config_drive:
        rescue.append(rescue_config_name(server.id))
    return [*own, *drive, *rescue], [*own, *rescue]


def find_in_table(
    hosts: Mapping[str, Row], held_rows: Mapping[str, Row], table: HostTable
) -> Iterator[str]:
    """Find where a leaf's table in memory is not what its rows say."""
    claimed: dict[str, tuple[str, int, int, int]] = {}
    for host_id, host in hosts.items():
        if host.is_removed:
            continue
        index = table.find_index(HostId(host_id))
        if index is None:
            yield f"host {host_id} is not in the table"
            continue
        for instance_id in table.list_instances(HostId(host_id)):
            claim = table.find_claim(InstanceId(instance_id))
            assert claim is not None
            claimed[instance_id] = (host_id, claim.ram_mib, claim.vcpus, claim.disk_gib)
        held = [row for row in held_rows.values() if row.host_id == host_id]
        free = int(table.ram_limit[index]) - sum(row.ram_mib for row in held)
        if int(table.ram_free[index]) != free:
            yield f"host {host_id} has {table.ram_free[index]} MiB free in the table, not {free}"
        if int(table.io_ops[index]):
            yield f"host {host_id} counts {int(table.io_ops[index])} builds in flight"
    kept = {
        row.instance_id: (row.host_id, row.ram_mib, row.vcpus, row.disk_gib)
        for row in held_rows.values()
    }
    if claimed != kept:
        yield f"the table has the claims {claimed}, the rows {kept}"
