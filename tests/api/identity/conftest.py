"""A cloud of identity alone, with its first start done, and clients for its users."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from xenith.core.clock import ManualClock
from xenith.core.world import World
from xenith.db import Database
from xenith.http import Site
from xenith.identity import CatalogEntry, Identity, service
from xenith.identity.passwords import Cost, Passwords

CATALOG = (
    CatalogEntry("identity", "keystone", "http://cloud/identity/v3"),
    CatalogEntry("object-store", "swift", "http://cloud/object-store/v1/AUTH_$(project_id)s"),
)


def password_auth(
    user: str = "admin",
    password: str = "admin-password",
    *,
    domain: str = "default",
    scope: Any = None,
) -> dict[str, Any]:
    """Give the body of a sign-in with a password."""
    auth: dict[str, Any] = {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": {"id": domain}, "password": password}},
        }
    }
    if scope is not None:
        auth["scope"] = scope
    return {"auth": auth}


def project_scope(name: str, domain: str = "default") -> dict[str, Any]:
    return {"project": {"name": name, "domain": {"id": domain}}}


class Cloud:
    """Identity behind its API."""

    def __init__(self, identity: Identity, site: Site, clock: ManualClock) -> None:
        self.identity = identity
        self.site = site
        self.clock = clock
        self.open = self.client()
        self.admin: httpx2.AsyncClient = self.open

    def client(self, token: str | None = None) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.site),
            base_url="http://cloud/identity/v3",
            headers={"X-Auth-Token": token} if token else {},
        )

    async def sign_in(self, *args: Any, **kwargs: Any) -> httpx2.Response:
        return await self.open.post("/auth/tokens", json=password_auth(*args, **kwargs))

    async def token(self, *args: Any, **kwargs: Any) -> str:
        answer = await self.sign_in(*args, **kwargs)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["x-subject-token"])

    async def make(self, noun: str, **fields: Any) -> dict[str, Any]:
        plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
        answer = await self.admin.post(f"/{plural}", json={noun: fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json()[noun])

    async def role_id(self, name: str) -> str:
        answer = await self.admin.get("/roles", params={"name": name})
        return str(answer.json()["roles"][0]["id"])

    async def project_id(self, name: str) -> str:
        answer = await self.admin.get("/projects", params={"name": name})
        return str(answer.json()["projects"][0]["id"])

    async def is_good(self, token: str) -> bool:
        """Tell whether the token opens something, and what it says of itself agrees."""
        opened = (await self.client(token).get("/auth/catalog")).status_code
        shown = (
            await self.admin.get("/auth/tokens", headers={"X-Subject-Token": token})
        ).status_code
        assert (opened, shown) in ((200, 200), (401, 404)), (opened, shown)
        return opened == 200


@pytest.fixture
async def cloud(db: Database, world: World, clock: ManualClock) -> AsyncIterator[Cloud]:
    identity = Identity(
        db,
        world,
        key_directory=None,
        region="RegionOne",
        token_life_s=3600,
        passwords=Passwords(Cost(memory_kib=8, rounds=1)),
    )
    await identity.bootstrap(
        admin_password="admin-password", demo_password="demo-password", catalog=CATALOG
    )
    made = Cloud(identity, Site([service(identity)], world=world, authenticator=identity), clock)
    made.admin = made.client(await made.token(scope=project_scope("admin")))
    yield made
    await identity.close()
