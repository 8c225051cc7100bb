"""What all of identity's endpoints say alike: links, lists with pages, and whose domain it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from xenith.db import Row
from xenith.http import Call
from xenith.http.paging import next_url
from xenith.identity.operations import Identity
from xenith.identity.operations.bootstrap import DEFAULT_DOMAIN

IdentityCall = Call[Identity]

#: Query names of every list.
PAGING = frozenset({"limit", "marker", "sort_key", "sort_dir"})
#: How a name may be asked for. Source: Identity API v3, "Filtering".
NAME_FILTERS = frozenset(
    {"name"}
    | {
        f"name__{how}"
        for how in (
            "contains",
            "icontains",
            "startswith",
            "istartswith",
            "endswith",
            "iendswith",
            "iexact",
        )
    }
)


def self_url(call: IdentityCall, *parts: str) -> str:
    """Give the address of a thing."""
    return "/".join([call.url + "/v3", *(quote(part, safe="") for part in parts)])


def answer_list(
    call: IdentityCall,
    name: str,
    rows: Sequence[Row],
    view: Callable[[IdentityCall, Row], dict[str, Any]],
    *,
    has_more: bool = False,
) -> dict[str, Any]:
    """Give a list with its links."""
    following = None
    if has_more and rows:
        following = next_url(call, rows[-1].id)
    return {
        name: [view(call, row) for row in rows],
        "links": {"self": call.url + call.path, "previous": None, "next": following},
    }


def guard(call: IdentityCall, domain_id: str | None) -> None:
    """Ask the endpoint's rule again, now that the domain of what it is about is known.

    Raises:
        Forbidden: the caller's rights are in another domain.
    """
    assert call.endpoint.policy is not None, "only what has a policy is guarded"
    call.enforce(call.endpoint.policy, **call.parameters, target_domain_id=domain_id)


def home_domain_id(call: IdentityCall) -> str:
    """Tell in which domain something is made when the body names none: the token's own."""
    who = call.principal
    return who.domain_id or who.project_domain_id or DEFAULT_DOMAIN


def own_domain(call: IdentityCall, column: Any) -> list[sa.ColumnElement[bool]]:
    """Keep the list of whoever has rights only in a domain to that domain."""
    who = call.principal
    if who.is_admin or who.is_system or who.domain_id is None:
        return []
    return [column == who.domain_id]
