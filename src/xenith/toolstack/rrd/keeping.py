"""Archives on disk: a file for each host or VM, replaced whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from xenith.core.ids import is_uuid
from xenith.core.log import logger
from xenith.toolstack.rrd.archive import Archives

SUFFIX = ".rrd"
_log = logger("toolstack.rrd")


class _Kept(msgspec.Struct):
    names: list[str]
    updated_s: float
    arrays: list[bytes]
    levels: list[list[bytes]]


def encode(archives: Archives) -> bytes:
    """Give what is written of archives."""
    return msgspec.msgpack.encode(archives.dump())


class Shelf:
    """The directory that one host's archives are kept in."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # A saving that was left off goes on in its thread, and the next one must not meet it.
        self._turn = threading.Lock()

    def save(self, kept: Mapping[str, bytes], gone: Iterable[str]) -> None:
        """Write files by uuid, and remove those of what is gone. Blocks; for a thread."""
        with self._turn:
            self._directory.mkdir(parents=True, exist_ok=True)
            for uuid, data in kept.items():
                _replace(self._directory / f"{uuid}{SUFFIX}", data)
            for uuid in gone:
                (self._directory / f"{uuid}{SUFFIX}").unlink(missing_ok=True)

    def load(self) -> dict[str, Archives]:
        """Read what was kept; a file that is none of ours, or damaged, is left out."""
        found: dict[str, Archives] = {}
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if not is_uuid(path.stem):
                continue
            try:
                kept = msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
                found[path.stem] = Archives.load(
                    kept.names, kept.updated_s, kept.arrays, kept.levels
                )
            except (msgspec.DecodeError, ValueError, OSError) as error:
                _log.warning("archives cannot be read", uuid=path.stem, error=repr(error))
        return found


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
