"""One hierarchy of errors, classed by what the caller can do about them.

Each edge (HTTP, XenAPI, the command line) maps the classes in one table of its own. A message
names the thing, its state and the way out; ``fields`` carry the same for programs. ``kind`` is
the field's own name for the error (``NetworkInUse``), for APIs whose clients key on it.
"""

from __future__ import annotations


class XenithError(Exception):
    """What every error of ours is."""

    def __init__(self, message: str, *, kind: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.fields = fields


class NotFound(XenithError):
    """The thing is not there, or not for this caller's eyes."""


class Conflict(XenithError):
    """The thing's state or generation does not allow this now."""


class Invalid(XenithError):
    """The request itself is wrong and would be wrong at any time."""


class Unsatisfiable(XenithError):
    """A range of bytes that the thing does not have."""


class Unauthenticated(XenithError):
    """The caller has not said who they are, or the token is not good."""


class Forbidden(XenithError):
    """The caller is known and may not do this."""


class Exhausted(XenithError):
    """A quota, a limit or the capacity is used up; fields say which and by how much."""


class TooLarge(XenithError):
    """The body or the thing is larger than a named limit."""


class NotAcceptable(XenithError):
    """The version or media type that was asked for is not offered."""


class Unsupported(XenithError):
    """The operation or media type is known and not supported here."""


class Unavailable(XenithError):
    """Something that we depend on is away; ``retry_after_s`` says when to ask again."""

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, kind: str = "", **fields: object
    ) -> None:
        super().__init__(message, kind=kind, **fields)
        self.retry_after_s = retry_after_s


class Bug(XenithError):
    """An invariant of ours does not hold."""
