"""Structured logs: one event a line, with the request id of the work that caused it.

Secrets never reach a line: values under the names of secrets are blotted out, at any depth.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SECRET_NAMES = frozenset(
    {
        "adminpass",
        "authorization",
        "cookie",
        "key",
        "password",
        "personality",
        "private_key",
        "secret",
        "session",
        "set_cookie",
        "token",
        "user_data",
    }
)
#: What the names of settings, headers and columns that hold a secret end in.
SECRET_ENDINGS = ("_pass", "_password", "_secret", "_token")


def is_secret(name: object) -> bool:
    """Tell whether values under this name are secrets, however the name is written.

    >>> is_secret("X-Auth-Token"), is_secret("adminPass"), is_secret("key_name")
    (True, True, False)
    """
    plain = str(name).lower().replace("-", "_")
    return plain in SECRET_NAMES or plain.endswith(SECRET_ENDINGS)


def _blot(value: Any) -> Any:
    """Copy a value with the secrets in it blotted out, at any depth."""
    if isinstance(value, dict):
        return {name: "***" if is_secret(name) else _blot(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_blot(item) for item in value]
    return value


def _blot_secrets(
    _logger: object, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {name: "***" if is_secret(name) else _blot(item) for name, item in event.items()}


class _StandardError:
    """Standard error as it is when a line is written, not when the logger was made."""

    def write(self, text: str) -> int:
        """Write."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush."""
        sys.stderr.flush()


def configure(*, level: str = "info", as_json: bool = False) -> None:
    """Send events of ``level`` and above to standard error, for people or as JSON lines."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _blot_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Give the logger of a room; ``bind`` adds fields to it."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(room=name))


def configure_quietly() -> None:
    """Log as a command does that was not told how: in plain, and its own output kept to itself."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
    )


if not structlog.is_configured():
    configure_quietly()
