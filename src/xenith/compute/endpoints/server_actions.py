"""Endpoints of server actions, and the list of what was asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from xenith.compute.endpoints import server_view
from xenith.compute.endpoints.server_view import host_id
from xenith.compute.operations import Compute
from xenith.compute.schemas.servers import (
    REBUILD_SERVER,
    ConsoleOutput,
    CreateBackup,
    CreateImage,
    Lock,
    Reboot,
    Rescue,
    ResetState,
    Resize,
)
from xenith.core.clock import parse_iso
from xenith.core.errors import Invalid, NotFound
from xenith.db import Row
from xenith.http import Answer, Call, Endpoint
from xenith.http.paging import next_url

_PATH = "/v2.1/servers/{server_id}/action"
_CODES = (400, 401, 403, 404, 409)


def _power(transition: str) -> Callable[[Call[Compute]], Awaitable[None]]:
    async def handler(call: Call[Compute]) -> None:
        await call.service.actions.power(
            call.principal, call["server_id"], transition, request_id=call.request_id
        )

    return handler


async def reboot(call: Call[Compute]) -> None:
    """Reboot by the guest's own means, or by cutting its power."""
    kind: Reboot = call.body
    await call.service.actions.power(
        call.principal,
        call["server_id"],
        f"reboot_{kind.type.lower()}",
        request_id=call.request_id,
    )


async def lock(call: Call[Compute]) -> None:
    """Lock a server; with a reason from 2.73 on."""
    reason = None
    if call.at_least(2, 73) and isinstance(call.body, Lock):
        reason = call.body.locked_reason
    await call.service.actions.lock(
        call.principal, call["server_id"], reason=reason, request_id=call.request_id
    )


async def unlock(call: Call[Compute]) -> None:
    """Unlock a server."""
    await call.service.actions.unlock(call.principal, call["server_id"], request_id=call.request_id)


async def force_delete(call: Call[Compute]) -> None:
    """Delete a server at once."""
    await call.service.servers.delete(
        call.principal, call["server_id"], request_id=call.request_id, action="forceDelete"
    )


async def reset_state(call: Call[Compute]) -> None:
    """Set a server's state by hand."""
    await call.service.actions.reset_state(
        call.principal, call["server_id"], vm_state=call.body.state, request_id=call.request_id
    )


async def resize(call: Call[Compute]) -> None:
    """Give a server another flavor."""
    wanted: Resize = call.body
    await call.service.resizes.resize(
        call.principal,
        call["server_id"],
        str(wanted.flavor_ref).rstrip("/").rpartition("/")[2],
        request_id=call.request_id,
    )


async def confirm_resize(call: Call[Compute]) -> None:
    """Keep the new flavor."""
    await call.service.resizes.confirm(
        call.principal, call["server_id"], request_id=call.request_id
    )


async def revert_resize(call: Call[Compute]) -> None:
    """Go back to the old flavor."""
    await call.service.resizes.revert(call.principal, call["server_id"], request_id=call.request_id)


async def rebuild(call: Call[Compute]) -> Answer:
    """Make a server anew of an image."""
    made = await call.service.rebuilds.rebuild(
        call.principal, call["server_id"], call.body, request_id=call.request_id
    )
    server = {**server_view.created(call, made.view), "adminPass": made.admin_pass}
    if call.at_least(2, 54):
        server["key_name"] = made.view.server.key_name
    if call.at_least(2, 57):
        server["user_data"] = made.view.server.user_data
    url = f"{call.url}/v2.1/servers/{call['server_id']}"
    return Answer({"server": server}, status=202, headers={"location": url})


async def rescue(call: Call[Compute]) -> dict[str, str]:
    """Have a server boot from another image's disk, its own beside it."""
    wanted = call.body if isinstance(call.body, Rescue) else Rescue()
    admin_pass = await call.service.rescues.rescue(
        call.principal, call["server_id"], wanted, request_id=call.request_id
    )
    return {"adminPass": admin_pass}


async def unrescue(call: Call[Compute]) -> None:
    """Have a rescued server boot from its own disk again."""
    await call.service.rescues.unrescue(
        call.principal, call["server_id"], request_id=call.request_id
    )


async def create_image(call: Call[Compute]) -> Answer:
    """Make an image of a server."""
    wanted: CreateImage = call.body
    image_id = await call.service.images.create(
        call.principal,
        call["server_id"],
        name=wanted.name.strip(),
        metadata=wanted.metadata,
        request_id=call.request_id,
    )
    return _image(call, image_id)


async def create_backup(call: Call[Compute]) -> Answer:
    """Make one more backup of a server, of which so many are kept."""
    wanted: CreateBackup = call.body
    rotation = int(wanted.rotation)
    image_id = await call.service.images.back_up(
        call.principal,
        call["server_id"],
        name=wanted.name.strip(),
        backup_type=wanted.backup_type,
        rotation=rotation,
        metadata=wanted.metadata,
        request_id=call.request_id,
    )
    # One that is not kept is nowhere.
    return _image(call, image_id) if rotation else Answer(status=202)


def _image(call: Call[Compute], image_id: str) -> Answer:
    if call.at_least(2, 45):
        return Answer({"image_id": image_id}, status=202)
    return Answer(status=202, headers={"location": f"{call.site_url}/image/v2/images/{image_id}"})


async def console_output(call: Call[Compute]) -> dict[str, str]:
    """Give the end of the console log."""
    length = call.body.length
    text = await call.service.actions.console_output(
        call.principal, call["server_id"], line_count=None if length is None else int(length)
    )
    # XML once could not carry other control characters; clients still expect them gone.
    shown = "".join(sign for sign in text if sign >= " " or sign in "\n\r\t")
    return {"output": shown}


def _moment(at_s: float | None) -> str | None:
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def _action(call: Call[Compute], row: Row) -> dict[str, Any]:
    body = {
        "action": row.action,
        "instance_uuid": row.instance_id,
        "request_id": row.request_id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "start_time": _moment(row.started_at),
        "message": row.message,
    }
    if call.at_least(2, 58):
        body["updated_at"] = _moment(row.updated_at)
    return body


async def list_actions(call: Call[Compute]) -> dict[str, Any]:
    """List what was asked of a server, newest first; pages and times from 2.58 on."""
    rows = await call.service.actions.list_actions(call.principal, call["server_id"])
    if not call.at_least(2, 58):
        return {"instanceActions": [_action(call, row) for row in rows]}
    rows = _within(call, rows)
    if (marker := call.asked("marker")) is not None:
        at = [at for at, row in enumerate(rows) if row.request_id == marker]
        if not at:
            raise Invalid(f"marker [{marker[:64]}] not found")
        rows = rows[at[0] + 1 :]
    limit = call.asked_int("limit", default=1000)
    assert limit is not None
    body: dict[str, Any] = {"instanceActions": [_action(call, row) for row in rows[:limit]]}
    if 0 < limit < len(rows):
        body["links"] = [{"rel": "next", "href": next_url(call, rows[limit - 1].request_id)}]
    return body


def _within(call: Call[Compute], rows: list[Row]) -> list[Row]:
    since, before = _asked_time(call, "changes-since"), None
    if call.at_least(2, 66):
        before = _asked_time(call, "changes-before")
    return [
        row
        for row in rows
        if (since is None or row.updated_at >= since)
        and (before is None or row.updated_at <= before)
    ]


def _asked_time(call: Call[Compute], name: str) -> float | None:
    text = call.asked(name)
    if text is None:
        return None
    try:
        return parse_iso(text.replace(" ", "+"))
    except ValueError:
        raise Invalid(f"Invalid {name} value: {text[:64]}") from None


async def show_action(call: Call[Compute]) -> dict[str, Any]:
    """Show one action; its events to admins, from 2.51 on to all."""
    row, events = await call.service.actions.show_action(
        call.principal, call["server_id"], call["request_id"]
    )
    body = _action(call, row)
    if call.at_least(2, 51) or call.principal.is_admin:
        body["events"] = [_event(call, row.project_id, event) for event in events]
    return {"instanceAction": body}


def _event(call: Call[Compute], project_id: str, event: Row) -> dict[str, Any]:
    shown = {
        "event": event.event,
        "start_time": _moment(event.started_at),
        "finish_time": _moment(event.finished_at),
        "result": event.result,
    }
    is_admin = call.principal.is_admin
    if is_admin or not call.at_least(2, 51):
        shown["traceback"] = event.traceback
    if call.at_least(2, 62):
        shown["hostId"] = host_id(project_id, event.host)
        if is_admin:
            shown["host"] = event.host
    if call.at_least(2, 84):
        shown["details"] = event.details
    return shown


async def ips(call: Call[Compute]) -> dict[str, Any]:
    """List a server's addresses by network."""
    return {"addresses": await _addresses(call)}


async def ips_of_network(call: Call[Compute]) -> Answer:
    """List a server's addresses on one network."""
    found = await _addresses(call)
    if call["network_label"] not in found:
        raise NotFound("Instance is not a member of specified network")
    return Answer({call["network_label"]: found[call["network_label"]]})


async def _addresses(call: Call[Compute]) -> dict[str, list[dict[str, Any]]]:
    view = await call.service.servers.show(call.principal, call["server_id"])
    found: dict[str, list[dict[str, Any]]] = {}
    for port in view.server.ports:
        listed = found.setdefault(port["network_name"], [])
        listed += [
            {"addr": address["address"], "version": address["version"]}
            for address in port["addresses"]
        ]
    return found


def _do(action: str, handler: Any, policy: str, *, body: Any = None, status: int = 202) -> Endpoint:
    return Endpoint(
        "POST",
        _PATH,
        handler,
        f"os_compute_api:{policy}",
        f"servers.action.{action}",
        status,
        action=action,
        body=body,
        codes=_CODES,
    )


ENDPOINTS = (
    _do("os-start", _power("os-start"), "servers:start"),
    _do("os-stop", _power("os-stop"), "servers:stop"),
    _do("reboot", reboot, "servers:reboot", body=Reboot),
    _do("pause", _power("pause"), "os-pause-server:pause"),
    _do("unpause", _power("unpause"), "os-pause-server:unpause"),
    _do("suspend", _power("suspend"), "os-suspend-server:suspend"),
    _do("resume", _power("resume"), "os-suspend-server:resume"),
    _do("resize", resize, "servers:resize", body=Resize),
    _do("confirmResize", confirm_resize, "servers:confirm_resize", status=204),
    _do("revertResize", revert_resize, "servers:revert_resize"),
    _do("rebuild", rebuild, "servers:rebuild", body=REBUILD_SERVER),
    _do("rescue", rescue, "os-rescue", body=(((2, 1), Rescue | None),), status=200),
    _do("unrescue", unrescue, "os-unrescue"),
    _do("createImage", create_image, "servers:create_image", body=CreateImage),
    _do("createBackup", create_backup, "os-create-backup", body=CreateBackup),
    _do("lock", lock, "os-lock-server:lock", body=(((2, 73), Lock | None),)),
    _do("unlock", unlock, "os-lock-server:unlock"),
    _do("forceDelete", force_delete, "os-deferred-delete:force"),
    _do("os-resetState", reset_state, "os-admin-actions:reset_state", body=ResetState),
    _do("os-getConsoleOutput", console_output, "os-console-output", body=ConsoleOutput, status=200),
    Endpoint(
        "GET",
        "/v2.1/servers/{server_id}/os-instance-actions",
        list_actions,
        "os_compute_api:os-instance-actions:list",
        "os-instance-actions.list_actions_for_server",
        query=frozenset(("limit", "marker", "changes-since", "changes-before")),
        strict_query_from=(2, 58),
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v2.1/servers/{server_id}/os-instance-actions/{request_id}",
        show_action,
        "os_compute_api:os-instance-actions:show",
        "os-instance-actions.show_server_action_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v2.1/servers/{server_id}/ips",
        ips,
        "os_compute_api:ips:index",
        "servers.list_ips",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v2.1/servers/{server_id}/ips/{network_label}",
        ips_of_network,
        "os_compute_api:ips:show",
        "servers.show_ip_details",
        codes=(401, 403, 404),
    ),
)
