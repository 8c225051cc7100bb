"""Flavors: made by admins, seen by those who may use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from xenith.compute.operations.context import Context
from xenith.compute.records.flavors import (
    change_extra_specs,
    delete_flavor,
    find_usable_flavor,
    flavor_access,
    flavors,
    list_access,
    list_flavors,
)
from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.http.paging import Page


class FlavorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a flavor is to be; sizes in MiB and GiB."""

    name: str
    #: None makes a UUID.
    id: str | None = None
    vcpus: int
    ram_mib: int
    root_gib: int
    ephemeral_gib: int = 0
    swap_mib: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    description: str | None = None


#: What an empty cloud begins with. Source: the sizes that nova shipped for years.
DEFAULT_FLAVORS = (
    FlavorSpec(id="1", name="m1.tiny", vcpus=1, ram_mib=512, root_gib=1),
    FlavorSpec(id="2", name="m1.small", vcpus=1, ram_mib=2048, root_gib=20),
    FlavorSpec(id="3", name="m1.medium", vcpus=2, ram_mib=4096, root_gib=40),
    FlavorSpec(id="4", name="m1.large", vcpus=4, ram_mib=8192, root_gib=80),
    FlavorSpec(id="5", name="m1.xlarge", vcpus=8, ram_mib=16384, root_gib=160),
    # For the tiny image and for tests: fits a laptop many times.
    FlavorSpec(id="64", name="m1.micro", vcpus=1, ram_mib=64, root_gib=1),
)


class Flavors:
    """Operations on flavors, their extra specs and accesses."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self,
        principal: Principal,
        page: Page,
        *,
        is_public: bool | None = True,
        min_ram_mib: int = 0,
        min_disk_gib: int = 0,
    ) -> list[Row]:
        """List a page of flavors; only an admin chooses ``is_public``."""
        return await self._context.db.read(
            list_flavors,
            page,
            project_id=principal.project_id,
            is_public=is_public if principal.is_admin else True,
            min_ram_mib=min_ram_mib,
            min_disk_gib=min_disk_gib,
        )

    async def get(self, principal: Principal, flavor_id: str) -> Row:
        """Get a flavor that the caller may use.

        Raises:
            NotFound: there is none.
        """
        row = await self._context.db.read(find_usable_flavor, flavor_id, principal)
        if row is None:
            raise _not_found(flavor_id)
        return row

    async def create(self, spec: FlavorSpec) -> Row:
        """Make a flavor.

        Raises:
            Conflict: its name or id is taken.
        """
        return await self._context.db.run(self._create, spec)

    async def update(self, flavor_id: str, *, description: str | None) -> Row:
        """Change a flavor's description, which is all that may change."""

        def change(tx: Tx) -> Row:
            if not tx.update(
                flavors, {"id": flavor_id}, description=description, updated_at=self._now()
            ):
                raise _not_found(flavor_id)
            return tx.get(flavors, id=flavor_id)

        return await self._context.db.run(change)

    async def delete(self, flavor_id: str) -> None:
        """Delete a flavor; servers of it keep their copy."""
        if not await self._context.db.run(delete_flavor, flavor_id):
            raise _not_found(flavor_id)

    async def ensure_defaults(self) -> None:
        """Make the ordinary flavors where there are none at all."""

        def make(tx: Tx) -> None:
            if not tx.list(flavors):
                for spec in DEFAULT_FLAVORS:
                    self._create(tx, spec)

        await self._context.db.run(make)

    # -- who may use a private one

    async def access(self, flavor_id: str) -> Sequence[str]:
        """List the projects that may use a private flavor.

        Raises:
            NotFound: there is no such flavor, or everyone may use it.
        """

        def read(tx: Tx) -> Sequence[str]:
            if _get(tx, flavor_id).is_public:
                raise NotFound("Access list not available for public flavors.")
            return list_access(tx, flavor_id)

        return await self._context.db.read(read)

    async def add_access(
        self, flavor_id: str, project_id: str, *, refuses_public: bool
    ) -> Sequence[str]:
        """Let a project use a flavor; give all that may.

        Raises:
            Conflict: it may already, or everyone may and ``refuses_public``.
        """

        def add(tx: Tx) -> Sequence[str]:
            flavor = _get(tx, flavor_id)
            self._refuse_unknown(tx, project_id)
            if flavor.is_public and refuses_public:
                raise Conflict("Can not add access to a public flavor.")
            if tx.find(flavor_access, flavor_id=flavor_id, project_id=project_id) is not None:
                raise Conflict(
                    f"Flavor access already exists for flavor {flavor_id} and project "
                    f"{project_id} combination."
                )
            tx.insert(flavor_access, {"flavor_id": flavor_id, "project_id": project_id})
            return list_access(tx, flavor_id)

        return await self._context.db.run(add)

    async def remove_access(self, flavor_id: str, project_id: str) -> Sequence[str]:
        """Let a project use a flavor no more; give all that still may."""

        def remove(tx: Tx) -> Sequence[str]:
            _get(tx, flavor_id)
            self._refuse_unknown(tx, project_id)
            if not tx.delete(flavor_access, flavor_id=flavor_id, project_id=project_id):
                raise NotFound(
                    f"Flavor access not found for {flavor_id} / {project_id} combination."
                )
            return list_access(tx, flavor_id)

        return await self._context.db.run(remove)

    def _refuse_unknown(self, tx: Tx, project_id: str) -> None:
        if not self._context.projects.has_project(tx, project_id):
            raise Invalid(f"Project ID {project_id} is not a valid project.")

    # -- extra specs

    async def set_extra_specs(self, flavor_id: str, specs: Mapping[str, str]) -> dict[str, str]:
        """Add extra specs to a flavor or change those it has; give all."""
        return await self._change_specs(flavor_id, lambda kept: {**kept, **specs})

    async def delete_extra_spec(self, flavor_id: str, name: str) -> None:
        """Take one extra spec from a flavor."""

        def without(kept: dict[str, str]) -> dict[str, str]:
            if name not in kept:
                raise no_extra_spec(flavor_id, name)
            return {key: value for key, value in kept.items() if key != name}

        await self._change_specs(flavor_id, without)

    async def _change_specs(
        self, flavor_id: str, changed: Callable[[dict[str, str]], dict[str, str]]
    ) -> dict[str, str]:
        def change(tx: Tx) -> dict[str, str]:
            specs = changed(_get(tx, flavor_id).extra_specs)
            change_extra_specs(tx, flavor_id, specs, now_s=self._now())
            return specs

        return await self._context.db.run(change)

    def _create(self, tx: Tx, spec: FlavorSpec) -> Row:
        flavor_id = spec.id or self._context.world.ids.uuid()
        if tx.find(flavors, name=spec.name) is not None:
            raise Conflict(f"Flavor with name {spec.name} already exists.")
        if tx.find(flavors, id=flavor_id) is not None:
            raise Conflict(f"Flavor with ID {flavor_id} already exists.")
        tx.insert(
            flavors,
            {
                **msgspec.structs.asdict(spec),
                "id": flavor_id,
                "is_disabled": False,
                "extra_specs": {},
                "created_at": self._now(),
                "updated_at": None,
            },
        )
        return tx.get(flavors, id=flavor_id)

    def _now(self) -> float:
        return self._context.world.clock.now()


def no_extra_spec(flavor_id: str, name: str) -> NotFound:
    """Say that a flavor has no extra spec of a name."""
    return NotFound(f"Flavor {flavor_id} has no extra specs with key {name}.")


def _get(tx: Tx, flavor_id: str) -> Row:
    row = tx.find(flavors, id=flavor_id)
    if row is None:
        raise _not_found(flavor_id)
    return row


def _not_found(flavor_id: str) -> NotFound:
    return NotFound(f"Flavor {flavor_id[:255]} could not be found.", kind="FlavorNotFound")
