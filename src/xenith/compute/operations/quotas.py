"""Quotas: limits by project and by class, and what of them is used."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from xenith.compute.operations.context import Context
from xenith.compute.records import quotas
from xenith.compute.records.server_groups import count_groups
from xenith.core.errors import Invalid
from xenith.db import Tx


class QuotaSet(msgspec.Struct, frozen=True):
    """A project's limits and uses by resource; -1 is no limit."""

    limits: dict[str, int]
    used: dict[str, int]


class Quotas:
    """Operations on quotas."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def show(self, project_id: str) -> QuotaSet:
        """Give a project's limits and what it uses.

        Raises:
            Invalid: there is no such project.
        """

        def read(tx: Tx) -> QuotaSet:
            self._refuse_unknown(tx, project_id)
            return _quota_set(tx, project_id)

        return await self._context.db.read(read)

    async def defaults(self, project_id: str) -> dict[str, int]:
        """Give the limits that a project has where none of its own is set."""

        def read(tx: Tx) -> dict[str, int]:
            self._refuse_unknown(tx, project_id)
            return quotas.class_limits(tx, quotas.DEFAULT_CLASS)

        return await self._context.db.read(read)

    async def update(
        self, project_id: str, limits: Mapping[str, int], *, is_forced: bool
    ) -> dict[str, int]:
        """Set limits of a project; give all of them.

        Raises:
            Invalid: there is no such project, or a limit is below what is used and not forced.
        """

        def change(tx: Tx) -> dict[str, int]:
            self._refuse_unknown(tx, project_id)
            if not is_forced:
                _refuse_below_use(limits, _quota_set(tx, project_id).used)
            quotas.set_limits(tx, scope="project", owner=project_id, limits=limits)
            return quotas.limits_of(tx, project_id)

        return await self._context.db.run(change)

    async def reset(self, project_id: str) -> None:
        """Take a project's own limits away."""
        await self._context.db.run(
            lambda tx: tx.delete(quotas.quota_limits, scope="project", owner=project_id)
        )

    async def show_class(self, name: str) -> dict[str, int]:
        """Give the limits of a class."""
        return await self._context.db.read(quotas.class_limits, name)

    async def update_class(self, name: str, limits: Mapping[str, int]) -> dict[str, int]:
        """Set limits of a class; those of `default` hold for every project without its own."""

        def change(tx: Tx) -> dict[str, int]:
            quotas.set_limits(tx, scope="class", owner=name, limits=limits)
            return quotas.class_limits(tx, name)

        return await self._context.db.run(change)

    async def limits(self, project_id: str) -> QuotaSet:
        """Give a project's limits and uses, whether identity still knows it or not."""
        return await self._context.db.read(_quota_set, project_id)

    def _refuse_unknown(self, tx: Tx, project_id: str) -> None:
        if not self._context.projects.has_project(tx, project_id):
            raise Invalid(f"Project ID {project_id[:255]} is not a valid project.")


def _quota_set(tx: Tx, project_id: str) -> QuotaSet:
    used = {**quotas.usage_of(tx, project_id), "server_groups": count_groups(tx, project_id)}
    return QuotaSet(quotas.limits_of(tx, project_id), used)


def _refuse_below_use(limits: Mapping[str, int], used: Mapping[str, int]) -> None:
    for resource, limit in limits.items():
        if limit != quotas.UNLIMITED and limit < used.get(resource, 0):
            raise Invalid(
                f"Quota limit {limit} for {resource} must be greater than or equal to already "
                f"used and reserved {used[resource]}."
            )
