"""Notes that a repository keeps of work in progress, one file each, whole or not there at all.

The names are what Xen's storage manager calls its own: ``coalesce_`` and the like, so that a
stranger who lists the directory knows what he sees.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from xenith.core.errors import Bug, NotFound
from xenith.vhd.create import NEW_SUFFIX, write_new
from xenith.vhd.files import Files, read

#: A note names a few files; one that is longer is none of ours.
NOTE_BYTES_MAX = 1024 * 1024
_Note = TypeVar("_Note", bound=msgspec.Struct)


def save(files: Files, name: str, note: msgspec.Struct) -> None:
    """Write a note, over the one of that name if there is one; it is on the disk then."""
    write_new(files, name, [(0, msgspec.json.encode(note))])
    files.rename(name + NEW_SUFFIX, name)
    files.sync()


def load(files: Files, name: str, kind: type[_Note]) -> _Note:
    """Read a note.

    Raises:
        Bug: it is none.
    """
    file = files.open(name)
    try:
        return msgspec.json.decode(read(file, 0, min(file.size(), NOTE_BYTES_MAX)), type=kind)
    except msgspec.MsgspecError as error:
        raise Bug(f"The note {name} of the repository is damaged: {error}") from error
    finally:
        file.close()


def drop(files: Files, name: str) -> None:
    """Remove a note, after all that it is about is on the disk. Safe to repeat."""
    files.sync()
    try:
        files.unlink(name)
    except NotFound:
        return
    files.sync()
