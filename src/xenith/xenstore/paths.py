"""Paths: which are valid, what lies above what, and what they are relative to.

Source: xen, docs/misc/xenstore.txt.
"""

from __future__ import annotations

import re

from xenith.xenstore.errors import XenstoreError
from xenith.xenstore.wire import RELATIVE_PATH_BYTES_MAX

_VALID = re.compile(r"/|(?:/[A-Za-z0-9_@-]+)+")
_DOMAIN = re.compile(r"/local/domain/[0-9]{1,5}/")
_SPECIAL = "@"


def domain_path(domid: int) -> str:
    """Give the path of a domain's own tree."""
    return f"/local/domain/{domid}"


def is_special(path: str) -> bool:
    """Tell whether it names an event of the store's own and no node."""
    return path.startswith(_SPECIAL)


def absolute(path: str, domid: int) -> str:
    """Give the path from the root; what does not begin there is below the domain's own."""
    return path if path.startswith(("/", _SPECIAL)) else f"{domain_path(domid)}/{path}"


def check(path: str, size_max: int = RELATIVE_PATH_BYTES_MAX) -> None:
    """Refuse what cannot be a node's path.

    Raises:
        XenstoreError: EINVAL.
    """
    below = _DOMAIN.match(path)
    if len(path) > size_max + (below.end() if below else 0) or not _VALID.fullmatch(path):
        raise XenstoreError("EINVAL")


def parent(path: str) -> str:
    """Give what a path lies in; the root lies in itself."""
    return path.rpartition("/")[0] or "/"


def name(path: str) -> str:
    """Give the last part."""
    return path.rpartition("/")[2]


def child(path: str, child_name: str) -> str:
    """Give the path of a child."""
    return f"/{child_name}" if path == "/" else f"{path}/{child_name}"


def is_within(path: str, above: str) -> bool:
    """Tell whether a path is another or lies below it."""
    return above in ("/", path) or path.startswith(f"{above}/")


def depth(path: str) -> int:
    """Count the parts."""
    return 0 if path == "/" else path.count("/")
