"""Endpoints of servers: create, list, show, update, delete."""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.compute.endpoints import server_view
from xenith.compute.endpoints.ages import with_ages
from xenith.compute.operations import Compute
from xenith.compute.operations.requests import read_request
from xenith.compute.records.server_lists import ServerFilter
from xenith.compute.schemas.servers import CREATE_SERVER, UPDATE_SERVER, is_true
from xenith.compute.states import STATUSES
from xenith.core.clock import parse_iso
from xenith.core.errors import Invalid
from xenith.db.patterns import compiled
from xenith.http import Answer, Call, Endpoint
from xenith.http.paging import asked_page, next_url

#: Sort keys of the API to columns of ours. Source: Compute API, "List Servers".
SORT_KEYS = {
    "access_ip_v4": "access_ipv4",
    "access_ip_v6": "access_ipv6",
    "availability_zone": "zone",
    "config_drive": "config_drive",
    "created_at": "created_at",
    "display_description": "description",
    "display_name": "name",
    "host": "host_name",
    "hostname": "hostname",
    "image_ref": "image_id",
    "instance_type_id": "flavor_id",
    "key_name": "key_name",
    "launch_index": "launch_index",
    "launched_at": "launched_at",
    "locked": "is_locked",
    "node": "host_name",
    "power_state": "power_state",
    "project_id": "project_id",
    "task_state": "task_state",
    "terminated_at": "terminated_at",
    "updated_at": "updated_at",
    "user_id": "user_id",
    "uuid": "id",
    "vm_state": "vm_state",
}
_ADMIN_SORT_KEYS = {"host", "node", "project_id", "task_state", "launched_at", "terminated_at"}

#: Filters that match one column exactly, by the half that has it.
_SERVER_FILTERS = {
    "user_id": "user_id",
    "image": "image_id",
    "image_ref": "image_id",
    "flavor": "flavor_id",
    "key_name": "key_name",
    "description": "description",
    "hostname": "hostname",
    "reservation_id": "reservation_id",
    "access_ip_v4": "access_ipv4",
    "access_ip_v6": "access_ipv6",
}
_INSTANCE_FILTERS = {
    "host": "host_name",
    "node": "host_name",
    "task_state": "task_state",
    "availability_zone": "zone",
}
#: What a tenant may filter by; others of theirs are left out of account. Source: nova
#: `_get_server_search_options`, and 2.83 for the second row.
_TENANT_FILTERS = frozenset(
    (
        "reservation_id",
        "name",
        "status",
        "image",
        "flavor",
        "ip",
        "ip6",
        "changes-since",
        "changes-before",
        "all_tenants",
        "tags",
        "tags-any",
        "not-tags",
        "not-tags-any",
        "locked",
        "metadata",
        "limit",
        "marker",
        "sort_key",
        "sort_dir",
        "deleted",
    )
)
_TENANT_FILTERS_283 = frozenset(
    (
        "availability_zone",
        "config_drive",
        "key_name",
        "created_at",
        "launched_at",
        "terminated_at",
        "power_state",
        "task_state",
        "vm_state",
        "progress",
        "user_id",
    )
)
_QUERY = frozenset(
    (
        *_TENANT_FILTERS,
        *_TENANT_FILTERS_283,
        *_SERVER_FILTERS,
        *_INSTANCE_FILTERS,
        "host",
        "hostname",
        "project_id",
        "tenant_id",
        "uuid",
        "launch_index",
        "kernel_id",
        "ramdisk_id",
        "root_device_name",
        "soft_deleted",
        "block_device_mapping",
        "services",
        "metadata",
        "system_metadata",
        "info_cache",
        "security_groups",
        "pci_devices",
        "description",
        "node",
        "disk_config",
    )
)


async def create_server(call: Call[Compute]) -> Answer:
    """Accept one or several servers."""
    request = read_request(call.body)
    made = await call.service.servers.create(call.principal, request, request_id=call.request_id)
    if request.wants_reservation:
        return Answer({"reservation_id": made.reservation_id})
    first = made.ids[0]
    server = {
        "id": first,
        "links": server_view.links(call, "servers", first),
        "OS-DCF:diskConfig": made.disk_config,
        "security_groups": [{"name": name} for name in made.security_groups],
        "adminPass": made.admin_pass,
    }
    return Answer({"server": server}, headers={"Location": f"{call.url}/v2.1/servers/{first}"})


async def list_servers(call: Call[Compute]) -> Any:
    """List a page of servers, brief."""
    return await _list(call, server_view.brief)


async def list_servers_detail(call: Call[Compute]) -> Any:
    """List a page of servers with all of each."""
    return await _list(call, server_view.detail)


async def _list(call: Call[Compute], render: Any) -> Any:
    names = (
        SORT_KEYS
        if call.principal.is_admin
        else {key: column for key, column in SORT_KEYS.items() if key not in _ADMIN_SORT_KEYS}
    )
    page = asked_page(call, sort_names=names)
    wanted = _filter(call)
    if wanted is None or page.limit == 0:
        return {"servers": []}
    views = await call.service.servers.list(wanted, page)
    shown = views[: page.limit]
    body: dict[str, Any] = {"servers": [render(call, view) for view in shown]}
    if len(views) > page.limit or (len(shown) == page.limit and call.asked("limit")):
        body["servers_links"] = [{"rel": "next", "href": next_url(call, shown[-1].server.id)}]
    return with_ages(call, body, (view.server.cell_id for view in shown))


async def show_server(call: Call[Compute]) -> Any:
    """Show one server."""
    view = await call.service.servers.show(call.principal, call["server_id"])
    return with_ages(call, {"server": server_view.detail(call, view)}, [view.server.cell_id])


async def update_server(call: Call[Compute]) -> dict[str, Any]:
    """Change what a tenant owns of a server."""
    view = await call.service.servers.update(call.principal, call["server_id"], call.body.server)
    return {"server": server_view.created(call, view)}


async def delete_server(call: Call[Compute]) -> None:
    """Ask for a server to be deleted."""
    await call.service.servers.delete(call.principal, call["server_id"], request_id=call.request_id)


def _filter(call: Call[Compute]) -> ServerFilter | None:
    """Read the query's filters; None when no server can match."""
    asked = _allowed_filters(call)
    fields: dict[str, Any] = {"servers": {}, "instances": {}, "patterns": {}, "metadata": {}}
    # Its name alone says yes. Source: nova, servers "Index".
    is_bare = call.asked("all_tenants") == ""
    if is_bare or call.asked_bool("all_tenants", default=False):
        call.enforce("os_compute_api:servers:index:get_all_tenants")
        fields["project_id"] = asked.get("project_id") or asked.get("tenant_id")
    else:
        fields["project_id"] = call.principal.project_id
    _read_columns(call, asked, fields)
    _read_states(call, asked, fields)
    _read_times(call, asked, fields)
    if call.at_least(2, 26):
        for name in ("tags", "tags-any", "not-tags", "not-tags-any"):
            if name in asked:
                fields[name.replace("-", "_")] = tuple(filter(None, asked[name].split(",")))
    if fields["statuses"] == ():
        return None
    return ServerFilter(**fields)


def _allowed_filters(call: Call[Compute]) -> dict[str, str]:
    asked = {name: values[-1] for name, values in call.query.items() if name in _QUERY}
    if call.principal.is_admin:
        return asked
    allowed = _TENANT_FILTERS | (_TENANT_FILTERS_283 if call.at_least(2, 83) else frozenset())
    return {name: value for name, value in asked.items() if name in allowed}


def _read_columns(call: Call[Compute], asked: dict[str, str], fields: dict[str, Any]) -> None:
    for name, column in _SERVER_FILTERS.items():
        if name in asked:
            fields["servers"][column] = asked[name].rstrip("/").rpartition("/")[2]
    for name, column in _INSTANCE_FILTERS.items():
        if name in asked:
            fields["instances"][column] = None if asked[name] == "null" else asked[name]
    if "uuid" in asked:
        fields["ids"] = (asked["uuid"],)
    if asked.get("name"):
        compiled(asked["name"])
        fields["patterns"]["name"] = asked["name"]
    if "config_drive" in asked:
        fields["servers"]["config_drive"] = is_true(asked["config_drive"])
    if "locked" in asked and call.at_least(2, 73):
        fields["servers"]["is_locked"] = call.asked_bool("locked")
    fields["ip"] = _literal(asked.get("ip"))
    if "ip6" in asked and (call.principal.is_admin or call.at_least(2, 5)):
        fields["ip6"] = _literal(asked["ip6"])
    if "metadata" in asked:
        fields["metadata"] = _read_metadata(asked["metadata"])


def _read_states(call: Call[Compute], asked: dict[str, str], fields: dict[str, Any]) -> None:
    fields["statuses"] = None
    statuses = call.query.get("status")
    if statuses is not None:
        known = tuple(text.upper() for text in statuses if text.upper() in STATUSES)
        if not known and (call.at_least(2, 38) or call.principal.is_admin):
            raise Invalid(f"Invalid status: '{statuses[-1][:64]}'")
        fields["statuses"] = known
        if known == ("DELETED",):
            if not call.principal.is_admin:
                call.enforce("os_compute_api:servers:index:get_all_tenants")
            fields["deleted"] = True
            fields["statuses"] = None
    if "vm_state" in asked:
        fields["vm_states"] = (asked["vm_state"],)
    if "power_state" in asked:
        power = call.asked_int("power_state")
        fields["instances"]["power_state"] = power
    if call.principal.is_admin and call.asked_bool("deleted", default=False):
        fields["deleted"] = True


def _read_times(call: Call[Compute], asked: dict[str, str], fields: dict[str, Any]) -> None:
    for name, field in (
        ("changes-since", "changes_since_s"),
        ("changes-before", "changes_before_s"),
    ):
        if name not in asked or (name == "changes-before" and not call.at_least(2, 66)):
            continue
        try:
            fields[field] = parse_iso(asked[name].replace(" ", "+"))
        except ValueError:
            raise Invalid(f"Invalid {name} value: {asked[name][:64]}") from None
        if name == "changes-since" and "deleted" not in fields:
            fields["with_deleted"] = True
    if (fields.get("changes_since_s") or 0) > fields.get("changes_before_s", float("inf")):
        raise Invalid("The value of changes-since must be less than or equal to changes-before.")


def _read_metadata(text: str) -> dict[str, str]:
    try:
        items = msgspec.json.decode(text.replace("'", '"'), type=dict[str, str])
    except msgspec.DecodeError:
        raise Invalid(f"Invalid filter metadata: {text[:64]}") from None
    return items


def _literal(pattern: str | None) -> str | None:
    """Take an address filter for a beginning of addresses, as nearly all are."""
    return None if pattern is None else pattern.lstrip("^").rstrip("$*.") or None


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v2.1/servers",
        list_servers,
        "os_compute_api:servers:index",
        "servers.list_servers",
        query=_QUERY,
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v2.1/servers",
        create_server,
        "os_compute_api:servers:create",
        "servers.create_server",
        202,
        body=CREATE_SERVER,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        "/v2.1/servers/detail",
        list_servers_detail,
        "os_compute_api:servers:detail",
        "servers.list_servers_detailed",
        query=_QUERY,
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "GET",
        "/v2.1/servers/{server_id}",
        show_server,
        "os_compute_api:servers:show",
        "servers.show_server_details",
        query=frozenset(),
        strict_query_from=(2, 75),
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PUT",
        "/v2.1/servers/{server_id}",
        update_server,
        "os_compute_api:servers:update",
        "servers.update_server",
        body=UPDATE_SERVER,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        "/v2.1/servers/{server_id}",
        delete_server,
        "os_compute_api:servers:delete",
        "servers.delete_server",
        204,
        codes=(401, 403, 404, 409),
    ),
)
