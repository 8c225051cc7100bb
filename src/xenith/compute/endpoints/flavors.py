"""Endpoints of flavors, their extra specs, and who may use the private ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xenith.compute.endpoints.server_view import links
from xenith.compute.operations import Compute
from xenith.compute.operations.flavors import FlavorSpec, no_extra_spec
from xenith.compute.schemas.extra_specs import fault_of
from xenith.compute.schemas.flavors import (
    CREATE_FLAVOR,
    UPDATE_FLAVOR,
    Access,
    ExtraSpecBody,
    ExtraSpecsBody,
)
from xenith.compute.schemas.servers import is_true
from xenith.core.errors import Invalid
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.db import Row
from xenith.http import Call, Endpoint
from xenith.http.paging import Page, next_url

#: Sort keys of the API to columns of ours. Source: Compute API, "List Flavors".
SORT_KEYS = {
    "created_at": "created_at",
    "description": "description",
    "disabled": "is_disabled",
    "ephemeral_gb": "ephemeral_gib",
    "flavorid": "id",
    "id": "id",
    "is_public": "is_public",
    "memory_mb": "ram_mib",
    "name": "name",
    "root_gb": "root_gib",
    "rxtx_factor": "rxtx_factor",
    "swap": "swap_mib",
    "updated_at": "updated_at",
    "vcpus": "vcpus",
}
_SPECS_RULE = "os_compute_api:os-flavor-extra-specs"
_ACCESS_RULE = "os_compute_api:os-flavor-access"


def _brief(call: Call[Compute], row: Row) -> dict[str, Any]:
    shown = {"id": row.id, "name": row.name, "links": links(call, "flavors", row.id)}
    if call.at_least(2, 55):
        shown["description"] = row.description
    return shown


def _detail(call: Call[Compute], row: Row) -> dict[str, Any]:
    shown = {
        **_brief(call, row),
        "ram": row.ram_mib,
        "disk": row.root_gib,
        "vcpus": row.vcpus,
        # No swap was the empty string until 2.75.
        "swap": row.swap_mib or (0 if call.at_least(2, 75) else ""),
        "OS-FLV-EXT-DATA:ephemeral": row.ephemeral_gib,
        "OS-FLV-DISABLED:disabled": row.is_disabled,
        "os-flavor-access:is_public": row.is_public,
        "rxtx_factor": row.rxtx_factor,
    }
    if call.at_least(2, 61) and call.allows(f"{_SPECS_RULE}:index"):
        shown["extra_specs"] = row.extra_specs
    return shown


async def list_flavors(call: Call[Compute]) -> dict[str, Any]:
    """List a page of flavors, brief."""
    return await _list(call, _brief)


async def list_flavors_detail(call: Call[Compute]) -> dict[str, Any]:
    """List a page of flavors with all of each."""
    return await _list(call, _detail)


async def _list(call: Call[Compute], render: Any) -> dict[str, Any]:
    page = _page(call)
    rows = await call.service.flavors.list(
        call.principal,
        page,
        is_public=_is_public(call),
        min_ram_mib=_least(call, "minRam"),
        min_disk_gib=_least(call, "minDisk"),
    )
    body: dict[str, Any] = {"flavors": [render(call, row) for row in rows]}
    if rows and len(rows) == page.limit:
        body["flavors_links"] = [{"rel": "next", "href": next_url(call, rows[-1].id)}]
    return body


def _page(call: Call[Compute]) -> Page:
    """Read the asked page; flavors go up by id unless asked otherwise."""
    key = call.asked("sort_key") or "flavorid"
    direction = call.asked("sort_dir") or "asc"
    if key not in SORT_KEYS:
        raise Invalid("Sort key supplied is invalid: " + key[:64])
    if direction not in ("asc", "desc"):
        raise Invalid("Unknown sort direction, must be 'desc' or 'asc'")
    is_down = direction == "desc"
    column = SORT_KEYS[key]
    sort = ((column, is_down),) if column == "id" else ((column, is_down), ("id", is_down))
    limit = call.asked_int("limit", default=PAGE_ITEMS_MAX) or 0
    return Page(limit=min(limit, PAGE_ITEMS_MAX), marker=call.asked("marker"), sort=sort)


def _is_public(call: Call[Compute]) -> bool | None:
    text = call.asked("is_public")
    if text is None:
        return True
    if text.lower() == "none":
        return None
    try:
        return call.asked_bool("is_public")
    except Invalid:
        raise Invalid(f"Invalid is_public filter [{text[:64]}]") from None


def _least(call: Call[Compute], name: str) -> int:
    try:
        return call.asked_int(name, default=0) or 0
    except Invalid:
        raise Invalid(f"Invalid {name} filter [{(call.asked(name) or '')[:64]}]") from None


async def show_flavor(call: Call[Compute]) -> dict[str, Any]:
    """Show one flavor."""
    row = await call.service.flavors.get(call.principal, call["flavor_id"])
    return {"flavor": _detail(call, row)}


async def create_flavor(call: Call[Compute]) -> dict[str, Any]:
    """Make a flavor."""
    body = call.body.flavor

    def given(name: str, default: Any) -> Any:
        value = getattr(body, name, msgspec.UNSET)
        return default if value is msgspec.UNSET else value

    chosen = given("id", None)
    factor = float(given("rxtx_factor", 1.0))
    if factor <= 0:
        raise Invalid("Invalid input for field/attribute rxtx_factor. It must be above 0.")
    spec = FlavorSpec(
        name=body.name.strip(),
        # `auto` is the command line's word for none, which old clients sent as it is.
        id=None if chosen in (None, "auto") else str(chosen),
        vcpus=int(body.vcpus),
        ram_mib=int(body.ram),
        root_gib=int(body.disk),
        ephemeral_gib=int(given("ephemeral", 0)),
        swap_mib=int(given("swap", 0)),
        rxtx_factor=factor,
        is_public=is_true(given("is_public", True)),
        description=given("description", None),
    )
    return {"flavor": _detail(call, await call.service.flavors.create(spec))}


async def update_flavor(call: Call[Compute]) -> dict[str, Any]:
    """Change a flavor's description."""
    row = await call.service.flavors.update(
        call["flavor_id"], description=call.body.flavor.description
    )
    return {"flavor": _detail(call, row)}


async def delete_flavor(call: Call[Compute]) -> None:
    """Delete a flavor."""
    await call.service.flavors.delete(call["flavor_id"])


# -- access


def _access(flavor_id: str, project_ids: Sequence[str]) -> dict[str, Any]:
    return {
        "flavor_access": [
            {"flavor_id": flavor_id, "tenant_id": project_id} for project_id in project_ids
        ]
    }


async def list_access(call: Call[Compute]) -> dict[str, Any]:
    """List the projects that may use a private flavor."""
    return _access(call["flavor_id"], await call.service.flavors.access(call["flavor_id"]))


async def add_access(call: Call[Compute]) -> dict[str, Any]:
    """Let a project use a flavor."""
    kept = await call.service.flavors.add_access(
        call["flavor_id"], call.body.tenant, refuses_public=call.at_least(2, 7)
    )
    return _access(call["flavor_id"], kept)


async def remove_access(call: Call[Compute]) -> dict[str, Any]:
    """Let a project use a flavor no more."""
    kept = await call.service.flavors.remove_access(call["flavor_id"], call.body.tenant)
    return _access(call["flavor_id"], kept)


# -- extra specs


async def list_extra_specs(call: Call[Compute]) -> dict[str, Any]:
    """List a flavor's extra specs."""
    row = await call.service.flavors.get(call.principal, call["flavor_id"])
    return {"extra_specs": row.extra_specs}


async def create_extra_specs(call: Call[Compute]) -> dict[str, Any]:
    """Add extra specs, or change those there are."""
    specs = call.body.extra_specs
    _refuse_wrong(call, specs)
    await call.service.flavors.set_extra_specs(call["flavor_id"], specs)
    return {"extra_specs": specs}


async def show_extra_spec(call: Call[Compute]) -> dict[str, Any]:
    """Show one extra spec."""
    name = call["flavor_extra_spec_key"]
    row = await call.service.flavors.get(call.principal, call["flavor_id"])
    if name not in row.extra_specs:
        raise no_extra_spec(row.id, name[:255])
    return {name: row.extra_specs[name]}


async def update_extra_spec(call: Call[Compute]) -> dict[str, Any]:
    """Set one extra spec."""
    if call["flavor_extra_spec_key"] not in call.body:
        raise Invalid("Request body and URI mismatch")
    _refuse_wrong(call, call.body)
    await call.service.flavors.set_extra_specs(call["flavor_id"], call.body)
    return dict(call.body)


async def delete_extra_spec(call: Call[Compute]) -> None:
    """Take one extra spec away."""
    await call.service.flavors.delete_extra_spec(call["flavor_id"], call["flavor_extra_spec_key"])


def _refuse_wrong(call: Call[Compute], specs: Mapping[str, str]) -> None:
    if not call.at_least(2, 86):
        return
    for name, value in specs.items():
        if (fault := fault_of(name, value)) is not None:
            raise Invalid(f"Validation failed; {fault}")


_FLAVOR = "/v2.1/flavors/{flavor_id}"
_ACTION = _FLAVOR + "/action"
_SPECS = _FLAVOR + "/os-extra_specs"
_SPEC = _SPECS + "/{flavor_extra_spec_key}"
_QUERY = frozenset(("limit", "marker", "is_public", "minRam", "minDisk", "sort_key", "sort_dir"))
_READ = (401, 403, 404)
_WRITE = (400, 401, 403, 404, 409)

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v2.1/flavors",
        list_flavors,
        "os_compute_api:flavors",
        "flavors.list_flavors",
        query=_QUERY,
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v2.1/flavors",
        create_flavor,
        "os_compute_api:os-flavor-manage:create",
        "flavors.create_flavor",
        body=CREATE_FLAVOR,
        codes=(400, 401, 403, 409),
    ),
    Endpoint(
        "GET",
        "/v2.1/flavors/detail",
        list_flavors_detail,
        "os_compute_api:flavors",
        "flavors.list_flavors_with_details",
        query=_QUERY,
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "GET",
        _FLAVOR,
        show_flavor,
        "os_compute_api:flavors",
        "flavors.show_flavor_details",
        codes=_READ,
    ),
    Endpoint(
        "PUT",
        _FLAVOR,
        update_flavor,
        "os_compute_api:os-flavor-manage:update",
        "flavors.update_flavor_description",
        body=UPDATE_FLAVOR,
        min_version=(2, 55),
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _FLAVOR,
        delete_flavor,
        "os_compute_api:os-flavor-manage:delete",
        "flavors.delete_flavor",
        202,
        codes=_READ,
    ),
    Endpoint(
        "GET",
        _FLAVOR + "/os-flavor-access",
        list_access,
        _ACCESS_RULE,
        "os_flavor_access.list_flavor_access_information_for_given_flavor",
        codes=_READ,
    ),
    Endpoint(
        "POST",
        _ACTION,
        add_access,
        f"{_ACCESS_RULE}:add_tenant_access",
        "flavors.action.addTenantAccess",
        action="addTenantAccess",
        body=Access,
        codes=_WRITE,
    ),
    Endpoint(
        "POST",
        _ACTION,
        remove_access,
        f"{_ACCESS_RULE}:remove_tenant_access",
        "flavors.action.removeTenantAccess",
        action="removeTenantAccess",
        body=Access,
        codes=_WRITE,
    ),
    Endpoint(
        "GET",
        _SPECS,
        list_extra_specs,
        f"{_SPECS_RULE}:index",
        "os_flavor_extra_specs.list_extra_specs_for_a_flavor",
        codes=_READ,
    ),
    Endpoint(
        "POST",
        _SPECS,
        create_extra_specs,
        f"{_SPECS_RULE}:create",
        "os_flavor_extra_specs.create_extra_specs_for_a_flavor",
        body=ExtraSpecsBody,
        codes=_WRITE,
    ),
    Endpoint(
        "GET",
        _SPEC,
        show_extra_spec,
        f"{_SPECS_RULE}:show",
        "os_flavor_extra_specs.show_an_extra_spec_for_a_flavor",
        codes=_READ,
    ),
    Endpoint(
        "PUT",
        _SPEC,
        update_extra_spec,
        f"{_SPECS_RULE}:update",
        "os_flavor_extra_specs.update_an_extra_spec_for_a_flavor",
        body=(((2, 1), ExtraSpecBody),),
        codes=_WRITE,
    ),
    Endpoint(
        "DELETE",
        _SPEC,
        delete_extra_spec,
        f"{_SPECS_RULE}:delete",
        "os_flavor_extra_specs.delete_an_extra_spec_for_a_flavor",
        codes=_READ,
    ),
)
