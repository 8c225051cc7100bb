"""Endpoints of projects, their tags, and domains."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Answer, Endpoint
from xenith.identity import schemas
from xenith.identity.endpoints.shared import (
    NAME_FILTERS,
    PAGING,
    IdentityCall,
    answer_list,
    guard,
    home_domain_id,
    own_domain,
    self_url,
)
from xenith.identity.endpoints.views import domain_view, project_view
from xenith.identity.operations import projects as operations
from xenith.identity.records import projects
from xenith.identity.records.listing import list_rows, read_flag
from xenith.identity.records.projects import PROJECTS, TAGS


async def list_projects(call: IdentityCall) -> dict[str, Any]:
    """List projects; with ``is_domain``, those that act as domains."""
    is_domain = read_flag(call.asked("is_domain") or "false")

    def read(tx: Tx) -> tuple[list[Row], bool, dict[str, list[str]]]:
        where = [PROJECTS.c.is_domain == int(is_domain), *own_domain(call, PROJECTS.c.domain_id)]
        where += _tag_conditions(call)
        rows, has_more = list_rows(
            tx,
            PROJECTS,
            call.query,
            filters=("name", "domain_id", "parent_id", "enabled"),
            where=where,
        )
        return rows, has_more, projects.list_tags(tx, [row.id for row in rows])

    rows, has_more, tags = await call.service.db.read(read)
    return answer_list(
        call,
        "projects",
        rows,
        lambda _, row: project_view(call, row, tags[row.id]),
        has_more=has_more,
    )


async def create_project(call: IdentityCall) -> dict[str, Any]:
    """Make a project."""
    new, extra = schemas.split(call.body.project, schemas.NewProject)
    home = home_domain_id(call)
    guard(call, None if new.is_domain else new.domain_id or home)

    def write(tx: Tx) -> Row:
        row = operations.create_project(tx, new, extra, home_domain_id=home)
        # The parent decides the domain, so it is known only now; refusing rolls back.
        guard(call, None if row.is_domain else row.domain_id)
        return row

    row = await call.service.db.run(write)
    return await _answer(call, row)


async def show_project(call: IdentityCall) -> dict[str, Any]:
    """Show a project, and what is above and below it when asked."""
    row = await _get(call)
    body = await _answer(call, row)
    project = body["project"]
    for name, read in (("parents", _ancestors), ("subtree", projects.list_subtree)):
        if f"{name}_as_list" in call.query:
            rows = await call.service.db.read(read, row.id)
            project[name] = [{"project": project_view(call, one, [])} for one in rows]
        elif f"{name}_as_ids" in call.query:
            rows = await call.service.db.read(read, row.id)
            project[name] = _nested_ids(row.id, rows, is_up=name == "parents")
    return body


async def update_project(call: IdentityCall) -> dict[str, Any]:
    """Change a project."""
    change, extra = schemas.split(call.body.project, schemas.ProjectChange)
    await _get(call)
    row = await call.service.db.run(operations.update_project, call["project_id"], change, extra)
    return await _answer(call, row)


async def delete_project(call: IdentityCall) -> None:
    """Delete a project."""
    await _get(call)
    await call.service.db.run(operations.delete_project, call["project_id"])


async def list_tags(call: IdentityCall) -> dict[str, Any]:
    """List a project's tags."""
    return await _tags_answer(call, await _get(call))


async def replace_tags(call: IdentityCall) -> dict[str, Any]:
    """Give a project these tags and no others."""
    row = await _get(call)
    await call.service.db.run(projects.replace_tags, row.id, call.body.tags)
    return await _tags_answer(call, row)


async def delete_tags(call: IdentityCall) -> None:
    """Take all tags from a project."""
    row = await _get(call)
    await call.service.db.run(projects.replace_tags, row.id, [])


async def check_tag(call: IdentityCall) -> None:
    """Tell whether a project has a tag."""
    row = await _get(call)
    tags = await call.service.db.read(projects.list_tags, [row.id])
    if call["tag"] not in tags[row.id]:
        raise NotFound(f"Could not find project tag: {call['tag']}.")


async def add_tag(call: IdentityCall) -> Answer:
    """Give a project a tag."""
    row = await _get(call)
    tag = call["tag"]
    if len(tag) > 255 or "," in tag or "/" in tag:
        raise Invalid("A tag has at most 255 characters, and no comma or slash.")

    def write(tx: Tx) -> None:
        tx.upsert(TAGS, {"project_id": row.id, "name": tag})

    await call.service.db.run(write)
    return Answer(
        None, status=201, headers={"Location": self_url(call, "projects", row.id, "tags", tag)}
    )


async def delete_tag(call: IdentityCall) -> None:
    """Take a tag from a project."""
    await check_tag(call)

    def write(tx: Tx) -> None:
        tx.delete(TAGS, project_id=call["project_id"], name=call["tag"])

    await call.service.db.run(write)


async def list_domains(call: IdentityCall) -> dict[str, Any]:
    """List domains."""

    def read(tx: Tx) -> tuple[list[Row], bool]:
        where = [PROJECTS.c.is_domain == 1, *own_domain(call, PROJECTS.c.id)]
        return list_rows(tx, PROJECTS, call.query, filters=("name", "enabled"), where=where)

    rows, has_more = await call.service.db.read(read)
    return answer_list(call, "domains", rows, domain_view, has_more=has_more)


async def create_domain(call: IdentityCall) -> dict[str, Any]:
    """Make a domain."""
    new, extra = schemas.split(call.body.domain, schemas.NewDomain)
    row = await call.service.db.run(operations.create_domain, new, extra)
    return {"domain": domain_view(call, row)}


async def show_domain(call: IdentityCall) -> dict[str, Any]:
    """Show a domain."""
    row = await call.service.db.read(projects.get_domain, call["domain_id"])
    return {"domain": domain_view(call, row)}


async def update_domain(call: IdentityCall) -> dict[str, Any]:
    """Change a domain."""
    change, extra = schemas.split(call.body.domain, schemas.DomainChange)
    row = await call.service.db.run(operations.update_domain, call["domain_id"], change, extra)
    return {"domain": domain_view(call, row)}


async def delete_domain(call: IdentityCall) -> None:
    """Delete a domain that is disabled."""
    await call.service.db.run(operations.delete_domain, call["domain_id"])


async def _get(call: IdentityCall) -> Row:
    row = await call.service.db.read(projects.get_project, call["project_id"])
    guard(call, row.id if row.is_domain else row.domain_id)
    return row


async def _answer(call: IdentityCall, row: Row) -> dict[str, Any]:
    tags = await call.service.db.read(projects.list_tags, [row.id])
    return {"project": project_view(call, row, tags[row.id])}


async def _tags_answer(call: IdentityCall, row: Row) -> dict[str, Any]:
    tags = await call.service.db.read(projects.list_tags, [row.id])
    url = self_url(call, "projects", row.id, "tags")
    return {"tags": tags[row.id], "links": {"self": url, "previous": None, "next": None}}


def _ancestors(tx: Tx, project_id: str) -> list[Row]:
    found = projects.list_ancestors(tx, projects.get_project(tx, project_id))
    return [row for row in found if not row.is_domain]


def _nested_ids(project_id: str, rows: list[Row], *, is_up: bool) -> dict[str, Any] | None:
    """Nest ids as ``{child: {grandchild: None}}``. Source: Identity API v3, 3.4."""
    if is_up:
        nested: dict[str, Any] | None = None
        for row in reversed(rows):
            nested = {row.id: nested}
        return nested
    below = [row for row in rows if row.parent_id == project_id]
    return {row.id: _nested_ids(row.id, rows, is_up=False) for row in below} or None


def _tag_conditions(call: IdentityCall) -> list[Any]:
    """Read ``tags``, ``tags-any``, ``not-tags`` and ``not-tags-any``."""

    def having(tag: str) -> Any:
        return PROJECTS.c.id.in_(_ids_with([tag]))

    found: list[Any] = []
    if tags := call.asked("tags"):
        found += [having(tag) for tag in tags.split(",")]
    if tags := call.asked("tags-any"):
        found.append(PROJECTS.c.id.in_(_ids_with(tags.split(","))))
    if tags := call.asked("not-tags-any"):
        found.append(PROJECTS.c.id.not_in(_ids_with(tags.split(","))))
    if tags := call.asked("not-tags"):
        all_of = [having(tag) for tag in tags.split(",")]
        found.append(~sa.and_(*all_of))
    return found


def _ids_with(tags: list[str]) -> Any:
    return sa.select(TAGS.c.project_id).where(TAGS.c.name.in_(tags))


_LIST = PAGING | NAME_FILTERS | {"domain_id", "parent_id", "enabled", "is_domain"}
_LIST |= {"tags", "tags-any", "not-tags", "not-tags-any"}
_SHOW = frozenset({"parents_as_list", "parents_as_ids", "subtree_as_list", "subtree_as_ids"})
_ONE, _TAGS = "/v3/projects/{project_id}", "/v3/projects/{project_id}/tags"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v3/projects",
        list_projects,
        policy="identity:list_projects",
        name="projects.list_projects",
        query=frozenset(_LIST),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/projects",
        create_project,
        policy="identity:create_project",
        name="projects.create_project",
        status=201,
        body=schemas.ProjectBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        _ONE,
        show_project,
        policy="identity:get_project",
        name="projects.show_project_details",
        query=_SHOW,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        _ONE,
        update_project,
        policy="identity:update_project",
        name="projects.update_project",
        body=schemas.ProjectChangeBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "DELETE",
        _ONE,
        delete_project,
        policy="identity:delete_project",
        name="projects.delete_project",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _TAGS,
        list_tags,
        policy="identity:list_project_tags",
        name="project_tags.list_tags_for_a_project",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PUT",
        _TAGS,
        replace_tags,
        policy="identity:update_project_tags",
        name="project_tags.modify_tag_list_for_a_project",
        body=schemas.TagsBody,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _TAGS,
        delete_tags,
        policy="identity:delete_project_tags",
        name="project_tags.remove_all_tags_from_a_project",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _TAGS + "/{tag}",
        check_tag,
        policy="identity:get_project_tag",
        name="project_tags.check_if_project_contains_tag",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PUT",
        _TAGS + "/{tag}",
        add_tag,
        policy="identity:create_project_tag",
        name="project_tags.add_single_tag_to_a_project",
        status=201,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _TAGS + "/{tag}",
        delete_tag,
        policy="identity:delete_project_tag",
        name="project_tags.delete_single_tag_from_project",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v3/domains",
        list_domains,
        policy="identity:list_domains",
        name="domains.list_domains",
        query=PAGING | NAME_FILTERS | {"enabled"},
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/domains",
        create_domain,
        policy="identity:create_domain",
        name="domains.create_domain",
        status=201,
        body=schemas.DomainBody,
        codes=(400, 401, 403, 409),
    ),
    Endpoint(
        "GET",
        "/v3/domains/{domain_id}",
        show_domain,
        policy="identity:get_domain",
        name="domains.show_domain_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        "/v3/domains/{domain_id}",
        update_domain,
        policy="identity:update_domain",
        name="domains.update_domain",
        body=schemas.DomainChangeBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "DELETE",
        "/v3/domains/{domain_id}",
        delete_domain,
        policy="identity:delete_domain",
        name="domains.delete_domain",
        status=204,
        codes=(401, 403, 404),
    ),
)
