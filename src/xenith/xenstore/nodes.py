"""Nodes and permissions: values that never change, so that a copy costs nothing.

Source: xen, docs/misc/xenstore.txt; sizes as xenstored 4.17 counts them for its quotas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from xenith.xenstore.errors import XenstoreError

READ, WRITE, OWN = 1, 2, 4
_LETTERS = {"n": 0, "r": READ, "w": WRITE, "b": READ | WRITE}
_WORDS = {access: letter for letter, access in _LETTERS.items()}
_PERMISSION = re.compile(rb"([nrwb])([0-9]{1,5})")
#: What xenstored's record of a node takes beside what is in it.
_HEAD_BYTES, _PERMISSION_BYTES = 24, 8


class Permission(NamedTuple):
    """What a domain may do. The first of a node names its owner, and what all others may."""

    domid: int
    access: int
    #: For a domain that is gone: one that gets its number later has no part in it.
    is_void: bool = False

    def __str__(self) -> str:
        """Give it as on the wire."""
        return f"{_WORDS[self.access]}{self.domid}"


class Node(NamedTuple):
    """One node; ``children`` are in the order in which they were made."""

    value: bytes
    permissions: tuple[Permission, ...]
    children: tuple[str, ...] = ()
    #: Of its last change; no two changes have the same.
    generation: int = 0

    @property
    def owner(self) -> int:
        """The domain that it counts for."""
        return self.permissions[0].domid

    @property
    def size_bytes(self) -> int:
        """What it counts for."""
        listed = sum(len(child) + 1 for child in self.children)
        held = _HEAD_BYTES + _PERMISSION_BYTES * len(self.permissions)
        return held + len(self.value) + listed


def parse_permission(text: bytes) -> Permission:
    """Read a letter and a domid.

    Raises:
        XenstoreError: EINVAL.
    """
    found = _PERMISSION.fullmatch(text)
    if found is None:
        raise XenstoreError("EINVAL")
    return Permission(int(found[2]), _LETTERS[found[1].decode()])


def access_of(permissions: Sequence[Permission], domids: Sequence[int]) -> int:
    """Tell what a domain that stands for these may do, its own number first.

    Source: xenstored, perm_for_conn: the first entry that names one of them, else the default.
    """
    if permissions[0].domid in domids:
        return READ | WRITE | OWN
    for permission in permissions[1:]:
        if permission.domid in domids and not permission.is_void:
            return permission.access
    return permissions[0].access
