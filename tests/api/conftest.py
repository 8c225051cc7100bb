"""What API tests share: a world that stands still, a database of their own, and callers by name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2
import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Unauthenticated
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import Database, open_database
from xenith.db.migrate import prepare
from xenith.http import Principal, Service, Site

#: What each role comes to, as tokens show it.
ROLES = {
    "reader": frozenset({"reader"}),
    "member": frozenset({"member", "reader"}),
    "manager": frozenset({"manager", "member", "reader"}),
    "admin": frozenset({"admin", "manager", "member", "reader"}),
}


def principal(name: str, **fields: Any) -> Principal:
    """Give a caller with the name's role on the project ``p1``; ``fields`` say otherwise."""
    role = name.partition("-")[0]
    values: dict[str, Any] = {
        "user_id": f"user-{name}",
        "user_name": name,
        "user_domain_id": "default",
        "roles": ROLES.get(role, frozenset()),
        "project_id": "p1",
        "project_name": "p1",
        "project_domain_id": "default",
        "audit_id": f"audit-{name}",
        "expires_at": 4e9,
    }
    return Principal(**{**values, **fields})


_NOWHERE = {"project_id": None, "project_name": None, "project_domain_id": None}

#: Callers that tests name by token: a role on p1, on the other project p2, on the system, in d1.
PRINCIPALS = {
    **{name: principal(name) for name in ROLES},
    **{
        f"{name}-2": principal(f"{name}-2", project_id="p2", project_name="p2")
        for name in ("reader", "member", "manager")
    },
    "service": principal("service", roles=frozenset({"service"})),
    "unscoped": principal("unscoped", **_NOWHERE),
    "system": principal("reader-system", is_system=True, **_NOWHERE),
    "domain-reader": principal("reader-domain", domain_id="d1", **_NOWHERE),
    "domain-manager": principal("manager-domain", domain_id="d1", **_NOWHERE),
}


class NamedCallers:
    """An authenticator whose tokens are the names of callers."""

    def __init__(self) -> None:
        self.principals = dict(PRINCIPALS)

    async def authenticate(self, token: str) -> Principal:
        """Give the caller of that name."""
        if token not in self.principals:
            raise Unauthenticated("The request you have made requires authentication.")
        return self.principals[token]


@pytest.fixture
def callers() -> NamedCallers:
    return NamedCallers()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock, ids=Ids(seed=1))


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite in memory; with XENITH_TEST_DATABASE=postgresql a PostgreSQL database instead."""
    if os.environ.get("XENITH_TEST_DATABASE") == "postgresql":
        return str(request.getfixturevalue("fresh_postgres_url"))
    return "sqlite://"


@pytest.fixture
async def db(world: World, database_url: str) -> AsyncIterator[Database]:
    """An empty database; the rooms whose tables are wanted must have been imported."""
    database = open_database(database_url, ids=world.ids, clock=world.clock)
    prepare(database)
    yield database
    await database.close()


def client_of(site: Site, *, token: str | None = None, prefix: str = "") -> httpx2.AsyncClient:
    """Give a client of a site in this process."""
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=site),
        base_url=f"http://cloud{prefix}",
        headers={"X-Auth-Token": token} if token else {},
    )


@pytest.fixture
def site_of(world: World, callers: NamedCallers) -> Callable[[Sequence[Service[Any]]], Site]:
    """Make a site of services whose callers are named by token."""
    return lambda services: Site(services, world=world, authenticator=callers)
