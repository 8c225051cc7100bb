"""Unix sockets at paths of any length: the system takes only 108 bytes of one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give another name of a path, which lasts within the block; its directory must be there."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def open_unix(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket.

    Raises:
        OSError: nobody listens there.
    """
    with short_path(path) as name:
        return await asyncio.open_unix_connection(name)


def bind_private(path: Path) -> socket.socket:
    """Make a socket that only its owner may connect to, in place of what is at the path."""
    made = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    held = os.umask(0o177)
    try:
        with short_path(path) as name:
            made.bind(name)
    finally:
        os.umask(held)
    return made
