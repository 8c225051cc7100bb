"""Compute behind its API, alone: no neighbours and no cell, but hosts and servers as rows."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from xenith.cells.changes import ensure_self
from xenith.cells.keys import CellKey
from xenith.cells.node import Node
from xenith.compute.endpoints.service import service
from xenith.compute.operations import Compute
from xenith.compute.operations.context import Context, Seal
from xenith.compute.origin import TABLES, ComputeOrigin, HostStates, follow_changes
from xenith.compute.records.hosts import change_host, insert_host
from xenith.compute.records.instances import allocations, insert_instance
from xenith.compute.records.servers import servers
from xenith.core.ids import CellId
from xenith.core.world import World
from xenith.db import Database
from xenith.dev.cells import tree_of_one
from xenith.http import Site
from xenith.image.operations import Images

CELL = CellId("cell")
PROJECTS = ("p1", "p2")
FACTS = {
    "memory_mib": 8192,
    "cpus": 4,
    "disk_gib": 100,
    "hypervisor_type": "xen",
    "hypervisor_version": "4.17.5",
    "ip": "192.0.2.7",
    "cpu_info": {"vendor": "GenuineIntel", "modelname": "Xeon", "features": "sse avx"},
}


class _Projects:
    def has_project(self, _tx: Any, project_id: str) -> bool:
        return project_id in PROJECTS


class Hosts:
    """A cell that has hosts as rows alone; it does what an operator says of them."""

    def __init__(self, db: Database) -> None:
        self.db = db
        #: Hosts that were changed.
        self.told: list[str] = []
        self.console = lambda: ""

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        if method == "console_log":
            return self.console()
        assert method == "change_host"
        self.told.append(params["host_id"])
        row = await self.db.run(
            lambda tx: change_host(tx, params["host_id"], now_s=1.7e9, **params["values"])
        )
        return {"number": row.change_number}


class Cloud:
    """Compute with its rows in reach."""

    def __init__(self, db: Database, world: World) -> None:
        self.db = db
        self.world = world
        self.down: set[str] = set()
        self.hosts = Hosts(db)
        key = CellKey.derive(b"cell")
        seat = tree_of_one(CELL, key, region="r", world=world)
        networks: Any = None
        self.node = Node(
            db,
            world,
            cell_id=CELL,
            key=key,
            root=key.public,
            signed=seat.signed,
            buses=seat.buses,
            tables=TABLES,
            executor=self.hosts,  # type: ignore[arg-type]
            origin=ComputeOrigin(lambda: self.context, networks),
        )
        follow_changes(db, networks, HostStates())
        self.context = Context(
            db=db,
            world=world,
            node=self.node,
            # Its rows; nobody asks for bytes.
            images=Images(db, world, None),  # type: ignore[arg-type]
            networks=networks,
            projects=_Projects(),
            seal=Seal(close=lambda data: data, open=lambda data: data),
            is_host_up=lambda host_id: host_id not in self.down,
        )
        self.compute = Compute(self.context)
        self.site: Site | None = None

    @property
    def told(self) -> list[str]:
        return self.hosts.told

    async def take_down(self, host_id: str) -> None:
        """Have a host's cell say that it does not answer."""
        await self.db.run(
            lambda tx: change_host(tx, host_id, now_s=self.world.clock.now(), is_up=False)
        )
        self.down.add(host_id)

    def client(self, token: str | None = "admin", version: str = "2.1") -> httpx2.AsyncClient:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.site),
            base_url="http://cloud/compute/v2.1",
            headers=headers | ({"X-Auth-Token": token} if token else {}),
        )

    async def ask(
        self, method: str, path: str, *, by: str = "admin", at: str = "2.1", **kwargs: Any
    ) -> httpx2.Response:
        """Ask once, as a caller named by token, at a microversion."""
        async with self.client(by, at) as client:
            return await client.request(method, path, **kwargs)

    async def get(self, path: str, **kwargs: Any) -> Any:
        """Give the body of a GET that must succeed."""
        answer = await self.ask("GET", path, **kwargs)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def add_host(self, name: str, **fields: Any) -> str:
        host_id = self.world.ids.uuid()
        row = {
            "id": host_id,
            "service_id": self.world.ids.uuid(),
            "name": name,
            "url": f"http://{name}",
            "user": "root",
            "sealed_password": b"",
            "zone": "nova",
            "is_enabled": True,
            "disabled_reason": None,
            "is_forced_down": False,
            "is_up": True,
            "down_reason": "",
            "is_removed": False,
            "facts": FACTS,
            "created_at": self.world.clock.now(),
            "updated_at": self.world.clock.now(),
        }
        await self.db.run(lambda tx: insert_host(tx, {**row, **fields}, cell_number=0))
        return host_id

    async def add_server(
        self,
        name: str,
        *,
        project_id: str = "p1",
        host_id: str | None = None,
        vcpus: int = 1,
        ram: int = 512,
        disk: int = 1,
        **instance: Any,
    ) -> str:
        """Put a server and its instance there, as a build would have."""
        server_id = self.world.ids.uuid()
        now = self.world.clock.now()
        flavor = {
            "original_name": "m1.tiny",
            "vcpus": vcpus,
            "ram": ram,
            "disk": disk,
            "ephemeral": 0,
            "swap": 0,
            "extra_specs": {},
        }
        texts = ("access_ipv4", "access_ipv6", "image_id", "reservation_id")
        server = {
            **dict.fromkeys(texts, ""),
            "id": server_id,
            "project_id": project_id,
            "user_id": "u",
            "name": name,
            "hostname": name,
            "image_properties": {},
            "flavor_id": "1",
            "flavor": flavor,
            "metadata": {},
            "tags": [],
            "config_drive": False,
            "disk_config": "MANUAL",
            "is_locked": False,
            "locked_by_admin": False,
            "ports": [],
            "hints": {},
            "security_groups": [],
            "launch_index": 0,
            "created_at": now,
            "updated_at": now,
            "intent_number": 1,
            "cell_id": CELL,
        }
        row = {
            "id": server_id,
            "project_id": project_id,
            "host_id": host_id,
            "vm_state": "active",
            "task_state": None,
            "power_state": 1,
            "applied_intent": 1,
            "generation": 1,
            "build": "b",
            "is_confirmed": True,
            "created_at": now,
            "updated_at": now,
            **instance,
        }

        def insert(tx: Any) -> None:
            tx.insert(servers, server)
            insert_instance(tx, row)
            if host_id is not None:
                tx.insert(
                    allocations,
                    {
                        "instance_id": server_id,
                        "host_id": host_id,
                        "project_id": project_id,
                        "ram_mib": ram,
                        "vcpus": vcpus,
                        "disk_gib": disk,
                    },
                )

        await self.db.run(insert)
        return server_id


@pytest.fixture
async def cloud(db: Database, world: World, site_of: Any) -> Cloud:
    made = Cloud(db, world)
    await db.run(ensure_self, CELL)
    made.site = site_of([service(made.compute)])
    return made
