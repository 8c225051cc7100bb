"""What stands on what in a repository: every VHD's footer and its parent, tables left unread.

A directory that cannot be read whole says so file by file: what is damaged is listed with its
reason, because removing what seems to have no child would else remove what still has one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from uuid import UUID

from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.vhd.files import Files
from xenith.vhd.footer import DIFFERENCING, FIXED, Footer
from xenith.vhd.image import find_parent_names, read_ends, read_header

SUFFIX = ".vhd"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One VHD of a repository; ``error`` says why there is no footer."""

    name: str
    footer: Footer | None = None
    parent_uuid: UUID | None = None
    parent_names: tuple[str, ...] = ()
    file_bytes: int = 0
    error: str = ""


def scan(files: Files) -> dict[str, Entry]:
    """Read the head of every VHD in the repository, by name."""
    tree = {}
    for name in files.names():
        if name.endswith(SUFFIX):
            with contextlib.suppress(NotFound):  # removed since it was listed
                tree[name] = _look(files, name)
    return tree


def children(tree: dict[str, Entry], name: str) -> list[str]:
    """List those that stand on a VHD.

    Raises:
        Conflict: a VHD that cannot be read may be one.
    """
    footer = tree[name].footer if name in tree else None
    damaged = [one.name for one in tree.values() if one.footer is None and one.name != name]
    if footer is None or damaged:
        raise Conflict(
            f"What stands on {name} is not known while {', '.join(damaged) or name} cannot be"
            " read; repair that first.",
            kind="VhdDamaged",
        )
    return [
        one.name
        for one in tree.values()
        if one.parent_uuid == footer.uuid and name in one.parent_names
    ]


def _look(files: Files, name: str) -> Entry:
    try:
        file = files.open(name)
    except Invalid as error:
        return Entry(name=name, error=error.message)
    try:
        footer, _ = read_ends(file)
        if footer.kind == FIXED:
            return Entry(name=name, footer=footer, file_bytes=file.size())
        header = read_header(file, footer)
        differs = footer.kind == DIFFERENCING
        return Entry(
            name=name,
            footer=footer,
            parent_uuid=header.parent_uuid if differs else None,
            parent_names=tuple(find_parent_names(file, header, files.path)) if differs else (),
            file_bytes=file.size(),
        )
    except Invalid as error:
        return Entry(name=name, file_bytes=file.size(), error=error.message)
    finally:
        file.close()
