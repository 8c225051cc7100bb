"""Scheduled images of servers: one a day or a week, of which so many are kept.

Source: the public cloud's extension ``rax-si-image-schedule``; its names of images, its mark on
them, and its times, which nobody chooses.
"""

from __future__ import annotations

from typing import Any

from xenith.compute.operations.context import Context
from xenith.compute.operations.server_images import ServerImages
from xenith.compute.operations.servers import get_view
from xenith.compute.records.actions import fail_action
from xenith.compute.records.image_schedules import (
    image_schedules,
    next_time,
    note_turn,
    remove_schedule,
)
from xenith.compute.schemas.image_schedules import ImageSchedule
from xenith.core.errors import Conflict, NotFound
from xenith.db import Row, Tx
from xenith.http import Principal

#: What an image says that a schedule made it; one without it is never removed by a schedule.
SERVICE = "scheduled-images-service"
#: Seconds until a server that could not be imaged now is tried again.
RETRY_S = 600.0
_NAME_MAX = 255


class ImageSchedules:
    """Operations on schedules."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._images = ServerImages(context)

    async def get(self, principal: Principal, server_id: str) -> Row:
        """Get a server's schedule.

        Raises:
            NotFound: there is no such server, or it has none.
        """

        def read(tx: Tx) -> Row:
            get_view(tx, server_id, principal)
            return _get(tx, server_id)

        return await self._context.db.read(read)

    async def put(self, principal: Principal, server_id: str, wanted: ImageSchedule) -> Row:
        """Make a server's schedule, in place of one that it has.

        Raises:
            NotFound: there is no such server.
        """

        def write(tx: Tx) -> Row:
            view = get_view(tx, server_id, principal)
            now = self._context.world.clock.now()
            tx.upsert(
                image_schedules,
                {
                    "server_id": server_id,
                    "project_id": view.server.project_id,
                    "retention": wanted.retention,
                    "day_of_week": wanted.day_of_week,
                    "principal": _told(principal, view.server.project_id),
                    "next_at": next_time(server_id, wanted.day_of_week, now),
                },
            )
            return _get(tx, server_id)

        return await self._context.db.run(write)

    async def delete(self, principal: Principal, server_id: str) -> None:
        """Make no more images of a server; those that there are stay.

        Raises:
            NotFound: there is no such server, or it has no schedule.
        """

        def remove(tx: Tx) -> None:
            get_view(tx, server_id, principal)
            _get(tx, server_id)
            remove_schedule(tx, server_id)

        await self._context.db.run(remove)

    def begin(self, tx: Tx, server_id: str) -> bool:
        """Have the image be made that is due; tell whether it is. Transaction function.

        However many times were missed, it is one. A server that is busy is tried again later.
        """
        row = _get(tx, server_id)
        now = tx.world.clock.now()
        principal = _principal(row.principal)
        try:
            view = get_view(tx, server_id, principal)
            self._images.schedule(
                tx,
                view,
                principal,
                name=_name(view.server.name, row.day_of_week, now),
                created_by=SERVICE,
                rotation=row.retention,
            )
        except NotFound:
            remove_schedule(tx, server_id)
            return False
        except Conflict as error:
            self.put_off(tx, server_id, reason=error.message)
            return False
        due = next_time(server_id, row.day_of_week, now)
        tx.update(image_schedules, {"server_id": server_id}, next_at=due, is_told=False)
        note_turn(tx, row.project_id, now_s=now)
        return True

    def put_off(self, tx: Tx, server_id: str, *, reason: str) -> None:
        """Try a server's image again later; an action of the server says so once.

        Transaction function.
        """
        row = _get(tx, server_id)
        now = tx.world.clock.now()
        tx.update(image_schedules, {"server_id": server_id}, next_at=now + RETRY_S, is_told=True)
        if not row.is_told:
            fail_action(
                tx,
                instance_id=server_id,
                request_id=tx.world.ids.request_id(),
                action="createBackup",
                user_id=row.principal["user_id"],
                project_id=row.project_id,
                now_s=now,
                message=f"The scheduled image is made later: {reason}",
            )


def _get(tx: Tx, server_id: str) -> Row:
    row = tx.find(image_schedules, server_id=server_id)
    if row is None:
        raise NotFound(f"Server {server_id} has no image schedule.")
    return row


def _name(server_name: str, day_of_week: str | None, now_s: float) -> str:
    kind, number = "daily" if day_of_week is None else "weekly", f"{int(now_s):010d}"
    room = _NAME_MAX - len(kind) - len(number) - 2
    return f"{kind}-{server_name[:room]}-{number}"


def _told(principal: Principal, project_id: str) -> dict[str, Any]:
    return {
        "user_id": principal.user_id,
        "user_name": principal.user_name,
        "user_domain_id": principal.user_domain_id,
        "project_id": project_id,
        "project_name": principal.project_name,
        # What an admin asks for is done with the rights of a member of the server's project.
        "roles": sorted(principal.roles - {"admin"}) or ["member"],
    }


def _principal(told: dict[str, Any]) -> Principal:
    return Principal(**{**told, "roles": frozenset(told["roles"])})
