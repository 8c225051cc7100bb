"""The endpoint table: one row for an operation, and the service that the rows belong to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from xenith.http.policy import Check

#: A microversion: major and minor.
Version = tuple[int, int]
ContextT = TypeVar("ContextT")

#: A body's struct, or one for each first version from which it holds, oldest first.
Body = type[Any] | Sequence[tuple[Version, type[Any]]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of a public API.

    ``handler`` takes a ``Call`` and gives the body of the answer, an ``Answer``, a ``Stream`` or
    None. A row with ``action`` shares its path with others and is chosen by the body's one key;
    its struct describes that key's value.
    """

    method: str
    path: str
    handler: Callable[[Any], Awaitable[Any]]
    #: The rule's name in the service's policies; None when no token is needed.
    policy: str | None
    name: str
    status: int = 200
    body: Body | None = None
    action: str | None = None
    min_version: Version | None = None
    max_version: Version | None = None
    #: Names that the query string may have; None when any is let through.
    query: frozenset[str] | None = None
    #: From this version on, a name outside ``query`` is refused with 400.
    strict_query_from: Version | None = None
    media_types: tuple[str, ...] = ("application/json",)
    #: The handler reads the body itself, as a stream.
    is_stream: bool = False
    #: Struct of the answer, for the OpenAPI document.
    answer: type[Any] | None = None
    #: Codes that the handler may answer besides ``status``, for the OpenAPI document.
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Service(Generic[ContextT]):
    """One public API: where it stands, how it speaks, and its operations."""

    #: The catalog's type: ``compute``.
    type: str
    #: The catalog's name: ``nova``.
    name: str
    #: Where it stands on the site: ``/compute``.
    prefix: str
    #: How it words errors; a key of ``faults.STYLES``.
    style: str
    endpoints: Sequence[Endpoint]
    policies: Mapping[str, Check]
    #: What handlers find as ``call.service``.
    context: ContextT
    min_version: Version | None = None
    max_version: Version | None = None
    #: The word before the version in ``OpenStack-API-Version``.
    version_word: str = ""
    #: An older header that is honoured too. Source: Compute API, before 2.27.
    legacy_version_header: str = ""
    #: HEAD is answered like GET without the body, as identity does.
    has_head: bool = False
    #: A path that ends in a slash is another one, whose last segment is empty. Source: glance.
    counts_last_slash: bool = False
    #: Path below the prefix that the catalog names: ``/v2.1``.
    catalog_path: str = ""
    #: Types under which the catalog lists it besides ``type``, with their names.
    aliases: Sequence[tuple[str, str]] = field(default=())


def has_version(endpoint: Endpoint, version: Version | None) -> bool:
    """Tell whether an endpoint is there at a microversion."""
    if version is None:
        return True
    if endpoint.min_version is not None and version < endpoint.min_version:
        return False
    return endpoint.max_version is None or version <= endpoint.max_version


def body_at(endpoint: Endpoint, version: Version | None) -> type[Any] | None:
    """Give the struct of an endpoint's body at a microversion."""
    if endpoint.body is None or isinstance(endpoint.body, type):
        return endpoint.body
    chosen = None
    for first, struct in endpoint.body:
        if version is None or version >= first:
            chosen = struct
    return chosen
