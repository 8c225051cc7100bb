"""Structured logs: one event a line, with the request id of the work that caused it.

Secrets never reach a line: values under the names in ``SECRET_NAMES`` are blotted out.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SECRET_NAMES = frozenset(
    {"password", "secret", "token", "adminPass", "admin_pass", "key", "private_key", "session"}
)


def _blot_secrets(
    _logger: object, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name in SECRET_NAMES & event.keys():
        event[name] = "***"
    return event


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Give the logger of a room; ``bind`` adds fields to it."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(room=name))
