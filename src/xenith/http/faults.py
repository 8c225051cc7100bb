"""Errors on the wire: one table from our classes to codes, one style of body a service.

Source: the error bodies that each OpenStack service sends, and that its clients read.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from xenith.core import errors
from xenith.http.endpoint import Version

#: What the caller can do about it, as a code.
CODES: dict[type[errors.XenithError], int] = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Invalid: 400,
    errors.Unsatisfiable: 416,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Exhausted: 403,
    errors.TooLarge: 413,
    errors.NotAcceptable: 406,
    errors.Unsupported: 415,
    errors.Unavailable: 503,
    errors.Bug: 500,
}

#: Where a service's clients expect another code. Source: errors.md, "codes that clients lean on".
CODES_OF_STYLE: dict[str, dict[type[errors.XenithError], int]] = {
    "network": {errors.Exhausted: 409},
    "volume": {errors.Exhausted: 413},
    "image": {errors.Exhausted: 413},
    "objectstore": {errors.Exhausted: 413},
}

_COMPUTE_WORDS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error about to be sent."""

    code: int
    message: str
    kind: str = ""
    request_id: str = ""
    accepts_html: bool = False
    min_version: Version | None = None
    max_version: Version | None = None
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """The code's phrase: ``Not Found``."""
        return HTTPStatus(self.code).phrase


def code_of(error: errors.XenithError, style: str) -> int:
    """Give the code of an error in a service's style."""
    for kind in type(error).__mro__:
        code = CODES_OF_STYLE.get(style, {}).get(kind) or CODES.get(kind)
        if code is not None:
            return code
    return 500


def _json(body: object) -> tuple[bytes, str]:
    return msgspec.json.encode(body), "application/json"


def _compute(fault: Fault) -> tuple[bytes, str]:
    word = _COMPUTE_WORDS.get(fault.code, "computeFault")
    return _json({word: {"code": fault.code, "message": fault.message}})


def _identity(fault: Fault) -> tuple[bytes, str]:
    return _json({"error": {"code": fault.code, "title": fault.title, "message": fault.message}})


def _page(fault: Fault) -> tuple[bytes, str]:
    """Word an error as the web framework under image (and unknown paths) does."""
    title = f"{fault.code} {fault.title}"
    if fault.accepts_html:
        text = html.escape(fault.message)
        page = (
            f"<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n"
            f"  <h1>{title}</h1>\n  {text}<br /><br />\n\n\n </body>\n</html>"
        )
        return page.encode(), "text/html; charset=UTF-8"
    return _json(
        {
            "message": html.escape(fault.message) + "<br /><br />\n\n\n",
            "code": title,
            "title": fault.title,
        }
    )


_NETWORK_KINDS = {
    400: "HTTPBadRequest",
    403: "PolicyNotAuthorized",
    404: "HTTPNotFound",
    409: "HTTPConflict",
    500: "HTTPInternalServerError",
}


def _network(fault: Fault) -> tuple[bytes, str]:
    kind = fault.kind or _NETWORK_KINDS.get(fault.code, f"HTTP{fault.title.replace(' ', '')}")
    return _json({"NeutronError": {"type": kind, "message": fault.message, "detail": ""}})


def _objectstore(fault: Fault) -> tuple[bytes, str]:
    text = f"<html><h1>{fault.title}</h1><p>{html.escape(fault.message)}</p></html>"
    return text.encode(), "text/html; charset=UTF-8"


def _placement(fault: Fault) -> tuple[bytes, str]:
    error = {
        "status": fault.code,
        "title": fault.title,
        "detail": fault.message,
        "code": fault.kind or "placement.undefined_code",
        "request_id": fault.request_id,
    }
    if fault.code == 406 and fault.min_version and fault.max_version:
        error["min_version"] = "{}.{}".format(*fault.min_version)
        error["max_version"] = "{}.{}".format(*fault.max_version)
    return _json({"errors": [error]})


def _unauthorized(fault: Fault) -> tuple[bytes, str]:
    """Word a refused token as the check in front of every service does."""
    return _identity(fault)


STYLES: dict[str, Callable[[Fault], tuple[bytes, str]]] = {
    "compute": _compute,
    "volume": _compute,
    "identity": _identity,
    "image": _page,
    "network": _network,
    "objectstore": _objectstore,
    "placement": _placement,
}


def render(fault: Fault, style: str) -> tuple[bytes, str]:
    """Give the body and media type of an error."""
    if fault.code == 401 and style != "objectstore":
        return _unauthorized(fault)
    return STYLES[style](fault)


def render_no_route(fault: Fault) -> tuple[bytes, str]:
    """Word an unknown path, without any service's own error key, so that it can be told apart."""
    return _page(fault)
