"""What the command line makes of an error: an exit code, and lines that say what to do.

One row a class of error; a subclass without a row takes its parent's. An error that knows better
carries ``next_step`` among its fields.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from xenith.core import errors

#: The command line itself is wrong. Source: the shells' own built-in commands.
USAGE = 2
#: Source: POSIX shells, 128 + SIGINT.
INTERRUPTED = 130
#: Source: POSIX shells, 128 + SIGPIPE.
OUTPUT_CLOSED = 141


class Row(NamedTuple):
    """How one class of error ends a command."""

    exit_code: int
    next_step: str


_REPORT = "set XENITH_DEBUG=1, run it again, and report what it shows"

TABLE: dict[type[BaseException], Row] = {
    BaseException: Row(1, _REPORT),
    OSError: Row(1, "check that the path or the address is right and that you may use it"),
    errors.XenithError: Row(1, _REPORT),
    errors.Bug: Row(1, _REPORT),
    errors.Invalid: Row(USAGE, "the command's --help tells what it takes"),
    errors.TooLarge: Row(USAGE, "give less, or raise the limit that the message names"),
    errors.NotAcceptable: Row(USAGE, "ask for a version that the cloud offers"),
    errors.Unsupported: Row(USAGE, "the command's --help tells what it takes"),
    errors.NotFound: Row(3, "check the name or id against the list of what there is"),
    errors.Conflict: Row(4, "look at the thing's state, wait or change it, and try again"),
    errors.Unauthenticated: Row(5, "check the user and password, as in the cloud's clouds.yaml"),
    errors.Forbidden: Row(5, "ask as a user that has the role"),
    errors.Exhausted: Row(6, "free some of it, or raise the quota or the capacity"),
    errors.Unsatisfiable: Row(2, "ask for a range within the thing"),
    errors.Unavailable: Row(7, "try again soon; xenith doctor checks this machine"),
}


def exit_code(error: BaseException) -> int:
    """Give the exit code of an error."""
    return _row(error).exit_code


def explain(error: BaseException) -> list[str]:
    """Write an error as lines: what, the cause if there is one, and the next step."""
    message = _message(error)
    lines = [f"error: {message}"]
    cause = error.__cause__
    if cause is not None and (text := _message(cause)) not in message:
        lines.append(f"cause: {text}")
    fields = error.fields if isinstance(error, errors.XenithError) else {}
    lines.append(f"next: {fields.get('next_step') or _row(error).next_step}")
    return lines


def _row(error: BaseException) -> Row:
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def _message(error: BaseException) -> str:
    if isinstance(error, errors.XenithError):
        return error.message
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{error.filename}: " if error.filename is not None else ""
        return f"{what}{error.strerror or os.strerror(error.errno)}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
