"""What a new cloud begins with, and the part of the catalog that it keeps true at each start.

The first start makes the domain, roles, projects and users that clients look for, in one
transaction; later starts leave them as operators have them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.ids import derive_uuid
from xenith.db import Tx
from xenith.identity.records import epochs
from xenith.identity.records.catalog import ENDPOINTS, REGIONS, SERVICES
from xenith.identity.records.people import USERS
from xenith.identity.records.projects import PROJECTS
from xenith.identity.records.roles import GRANTS, IMPLIED, ROLES, SYSTEM

DEFAULT_DOMAIN = "default"
#: Each role implies the next. Source: keystone, default roles.
ROLE_CHAIN = ("admin", "manager", "member", "reader")


class CatalogEntry(msgspec.Struct, frozen=True):
    """A service that this cloud serves itself."""

    type: str
    name: str
    #: May hold ``$(project_id)s``.
    url: str


def is_seeded(tx: Tx) -> bool:
    """Tell whether the first start has been."""
    return tx.find(PROJECTS, id=DEFAULT_DOMAIN) is not None


def seed(tx: Tx, *, admin_hash: str, demo_hash: str) -> None:
    """Make what a new cloud begins with. Transaction function; does nothing the second time."""
    if is_seeded(tx):
        return
    domain: dict[str, Any] = {
        "id": DEFAULT_DOMAIN,
        "name": "Default",
        "domain_id": "",
        "parent_id": None,
        "is_domain": True,
        "enabled": True,
        "description": "The default domain",
        "options": {},
        "extra": {},
    }
    names = {"admin": "", "demo": "", "service": "The cloud's own services"}
    project_ids = {name: tx.world.ids.hex() for name in names}
    rows = [
        {
            **domain,
            "id": project_ids[name],
            "name": name,
            "domain_id": DEFAULT_DOMAIN,
            "parent_id": DEFAULT_DOMAIN,
            "is_domain": False,
            "description": description,
        }
        for name, description in names.items()
    ]
    tx.insert_many(PROJECTS, [domain, *rows])
    role_ids = {name: tx.world.ids.hex() for name in (*ROLE_CHAIN, "service")}
    tx.insert_many(
        ROLES,
        [
            {
                "id": role_id,
                "name": name,
                "domain_id": "",
                "description": None,
                # Only these are kept from being deleted. Source: keystone bootstrap.
                "options": {"immutable": True} if name == "admin" else {},
                "extra": {},
            }
            for name, role_id in role_ids.items()
        ],
    )
    tx.insert_many(
        IMPLIED,
        [
            {"prior_id": role_ids[prior], "implied_id": role_ids[implied]}
            for prior, implied in itertools.pairwise(ROLE_CHAIN)
        ],
    )
    user_ids = {"admin": tx.world.ids.hex(), "demo": tx.world.ids.hex()}
    tx.insert_many(
        USERS,
        [
            {
                "id": user_ids[name],
                "name": name,
                "domain_id": DEFAULT_DOMAIN,
                "default_project_id": None,
                "enabled": True,
                "password_hash": hashed,
                "generation": 1,
                "options": {},
                "extra": {},
            }
            for name, hashed in (("admin", admin_hash), ("demo", demo_hash))
        ],
    )
    tx.insert_many(
        GRANTS,
        [
            {
                "actor_id": user_ids[user],
                "scope_id": scope_id,
                "role_id": role_ids[role],
                "is_inherited": False,
                "actor_kind": "user",
                "scope_kind": kind,
            }
            for user, kind, scope_id, role in (
                ("admin", "project", project_ids["admin"], "admin"),
                ("admin", "system", SYSTEM, "admin"),
                ("demo", "project", project_ids["demo"], "member"),
            )
        ],
    )


def keep_catalog(tx: Tx, entries: Sequence[CatalogEntry], *, region: str) -> None:
    """Give this cloud's own services their addresses, and take away those it serves no more.

    Entries of operators are not touched. Transaction function.
    """
    if tx.find(REGIONS, id=region) is None:
        tx.insert(REGIONS, {"id": region, "parent_region_id": None, "description": "", "extra": {}})
    wanted = {_derive("service", entry.type): entry for entry in entries}
    ours = {
        row.id: row
        for row in tx.all(sa.select(SERVICES).where(SERVICES.c.is_ours == sa.literal(1)))
    }
    for service_id in ours.keys() - wanted.keys():
        tx.delete(ENDPOINTS, service_id=service_id)
        tx.delete(SERVICES, id=service_id)
    for service_id, entry in wanted.items():
        if service_id not in ours:
            tx.insert(
                SERVICES,
                {
                    "id": service_id,
                    "type": entry.type,
                    "name": entry.name,
                    "description": "",
                    "enabled": True,
                    "is_ours": True,
                    "extra": {},
                },
            )
        for interface in ("public", "internal", "admin"):
            endpoint_id = _derive("endpoint", entry.type, region, interface)
            if not tx.update(ENDPOINTS, {"id": endpoint_id}, url=entry.url):
                tx.insert(
                    ENDPOINTS,
                    {
                        "id": endpoint_id,
                        "service_id": service_id,
                        "region_id": region,
                        "interface": interface,
                        "url": entry.url,
                        "name": None,
                        "enabled": True,
                        "extra": {},
                    },
                )
    epochs.invalidate(tx)


def _derive(*names: str) -> str:
    return derive_uuid("identity", *names).replace("-", "")
