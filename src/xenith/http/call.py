"""One request as a handler sees it, and the forms that its answer may take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from xenith.core.errors import Forbidden, Invalid
from xenith.http.endpoint import Endpoint, Service, Version
from xenith.http.policy import Principal

ContextT = TypeVar("ContextT")


class Answer(msgspec.Struct, frozen=True):
    """A body with a status or headers of its own; bytes are sent as they are."""

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = {}
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Stream:
    """A body sent piece by piece."""

    chunks: AsyncIterator[bytes]
    size_bytes: int | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/octet-stream"


@dataclass(slots=True)
class Call(Generic[ContextT]):
    """A request that has been routed, authenticated, allowed and validated."""

    service: ContextT
    endpoint: Endpoint
    host: Service[ContextT]
    request_id: str
    method: str
    path: str
    parameters: Mapping[str, str]
    #: Query parameters in order, with every value of a repeated one.
    query: Mapping[str, list[str]]
    #: Header names in lower case.
    headers: Mapping[str, str]
    #: Scheme, host and any outer prefix: ``http://127.0.0.1:5000``.
    site_url: str
    version: Version = (0, 0)
    #: The struct that the endpoint's ``body`` names, validated; None when it names none.
    body: Any = None
    _principal: Principal | None = None
    _chunks: AsyncIterator[bytes] | None = None

    @property
    def principal(self) -> Principal:
        """Who calls; only where the endpoint has a policy."""
        assert self._principal is not None, f"{self.endpoint.name} needs no token"
        return self._principal

    @property
    def url(self) -> str:
        """The service's root as clients reach it: ``http://127.0.0.1:5000/compute``."""
        return self.site_url + self.host.prefix

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; only where the endpoint ``is_stream``."""
        assert self._chunks is not None, f"{self.endpoint.name} is no stream"
        return self._chunks

    def __getitem__(self, parameter: str) -> str:
        """Give a parameter of the path."""
        return self.parameters[parameter]

    def at_least(self, major: int, minor: int) -> bool:
        """Tell whether the call's microversion is this one or a later one."""
        return self.version >= (major, minor)

    def asked(self, name: str) -> str | None:
        """Give the last value of a query parameter, or None."""
        values = self.query.get(name)
        return values[-1] if values else None

    def asked_int(self, name: str, *, default: int | None = None, at_least: int = 0) -> int | None:
        """Give a query parameter as an integer.

        Raises:
            Invalid: it is no integer, or below ``at_least``.
        """
        text = self.asked(name)
        if text is None:
            return default
        if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit() or len(text) > 18:
            raise Invalid(f"Invalid input for query parameter {name}: '{text}' is no integer")
        value = int(text)
        if value < at_least:
            raise Invalid(f"Invalid input for query parameter {name}: {value} is below {at_least}")
        return value

    def asked_bool(self, name: str, *, default: bool | None = None) -> bool | None:
        """Give a query parameter as a boolean, in the words that OpenStack takes for one.

        Raises:
            Invalid: it is no such word.
        """
        text = self.asked(name)
        if text is None:
            return default
        word = text.strip().lower()
        if word in ("1", "t", "true", "on", "y", "yes"):
            return True
        if word in ("0", "f", "false", "off", "n", "no"):
            return False
        raise Invalid(f"Invalid input for query parameter {name}: '{text}' is no boolean")

    def allows(self, rule: str, **target: Any) -> bool:
        """Tell whether a rule of the service holds for the caller and a target."""
        return self.host.policies[rule](self.principal, target)

    def enforce(self, rule: str, **target: Any) -> None:
        """Let the call go on only if a rule holds.

        Raises:
            Forbidden: it does not.
        """
        if not self.allows(rule, **target):
            raise Forbidden(f"Policy doesn't allow {rule} to be performed.", rule=rule)
