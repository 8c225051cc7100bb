"""What a fleet's hosts know, on disk: an append-only file of records.

What changed together is written together: when ``flush`` is called, as it is before a call is
answered, or when the loop next turns. So the death of the process loses nothing that was told. A
record torn by a crash is the last one and is cut off. At each start, and when most of it is past,
what is left is written anew, so that the file stays in proportion to what there is.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")
#: Bytes added since the file was written anew, beyond which it is written anew again: this many,
#: or four times what it began with.
GROWTH_BYTES_MAX = 64 * 1024 * 1024
#: Bytes of one record; more means that the length itself is torn.
RECORD_BYTES_MAX = 16 * 1024 * 1024


class Entry(msgspec.Struct, array_like=True):
    """One change: the fields that changed, or None when the object is gone."""

    host: str
    class_name: str
    ref: str
    record: dict[str, Any] | None


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Entry)


class Journal:
    """The file of one fleet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._waiting: list[bytes] = []
        self._began_bytes = 0
        self._added_bytes = 0

    @property
    def is_overgrown(self) -> bool:
        """Whether most of the file is about what has changed since."""
        return self._added_bytes > max(GROWTH_BYTES_MAX, 4 * self._began_bytes)

    def read(self) -> Iterator[Entry]:
        """Give the entries there are, oldest first; a torn end is left out."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        at = 0
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            if length > RECORD_BYTES_MAX or end > len(data):
                return
            try:
                yield _decoder.decode(data[at + _LENGTH.size : end])
            except msgspec.DecodeError:
                return
            at = end

    def begin(self, entries: Iterable[Entry]) -> None:
        """Write what there is anew and go on from there."""
        self._waiting.clear()  # the entries are of now
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        with draft.open("wb") as file:
            for entry in entries:
                file.write(_framed(entry))
            self._began_bytes, self._added_bytes = file.tell(), 0
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o600)
        draft.replace(self._path)
        self._file = self._path.open("ab", buffering=0)

    def write(self, host: str, class_name: str, ref: str, record: dict[str, Any] | None) -> None:
        """Add one change."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        # Encoded now: the record may be another by the time that it is written.
        data = _encode((host, class_name, ref, record))
        self._waiting += (_LENGTH.pack(len(data)), data)

    def flush(self) -> None:
        """Write the changes that wait, all or none.

        Raises:
            OSError: the disk is full or broken; they wait on.
        """
        if not self._waiting or self._file is None:
            return
        framed = b"".join(self._waiting)
        size = self._began_bytes + self._added_bytes
        try:
            if self._file.write(framed) != len(framed):
                raise OSError(errno.ENOSPC, "the journal was written in part")
        except OSError:
            # Half a record would hide all that is written after it.
            self._file.truncate(size)
            raise
        self._waiting.clear()
        self._added_bytes += len(framed)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None


def _framed(entry: Entry) -> bytes:
    data = _encode(entry)
    return _LENGTH.pack(len(data)) + data
