"""How bytes reach real xenstored: over its socket, and over the page that a domain shares.

Both block, and are for tests.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time
from pathlib import Path

#: A loaded machine may be slow; a daemon that is stuck is stuck for good.
DEADLINE_S = 60.0
_PAUSE_S = 0.0002
_RING_BYTES = 1024
#: Where the indexes are, in words of four bytes behind the two rings; each counts up and wraps.
_REQUESTS_TAKEN, _REQUESTS_MADE, _ANSWERS_TAKEN, _ANSWERS_MADE = range(512, 516)
_WRAP = 1 << 32


class SocketWire:
    """Bytes to and from a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(str(path))

    def send(self, data: bytes) -> None:
        """Send all."""
        self._socket.sendall(data)

    def receive(self, count: int) -> bytes:
        """Give exactly so many bytes; EOFError at the end."""
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        """Let go."""
        self._socket.close()


class RingWire:
    """Bytes to and from the page that a domain shares. Source: xen, docs/misc/xenstore-ring.txt."""

    def __init__(self, page: Path, events: int) -> None:
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)
        # An index must be written as one word: the daemon reads it meanwhile.
        self._words = memoryview(self._page).cast("I")
        self._events = events

    def send(self, data: bytes) -> None:
        """Send all, as there is room."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            made = self._words[_REQUESTS_MADE]
            room = _RING_BYTES - (made - self._words[_REQUESTS_TAKEN]) % _WRAP
            part, data = data[:room], data[room:]
            for at, byte in enumerate(part, start=made):
                self._page[at % _RING_BYTES] = byte
            self._words[_REQUESTS_MADE] = (made + len(part)) % _WRAP
            self._knock()
            if not data:
                return
            assert time.monotonic() < deadline, "xenstored does not take what it is sent"
            time.sleep(_PAUSE_S)

    def receive(self, count: int) -> bytes:
        """Give exactly so many bytes."""
        data = bytearray()
        deadline = time.monotonic() + DEADLINE_S
        while len(data) < count:
            taken = self._words[_ANSWERS_TAKEN]
            ready = (self._words[_ANSWERS_MADE] - taken) % _WRAP
            ready = min(ready, count - len(data))
            places = range(taken, taken + ready)
            data += bytes(self._page[_RING_BYTES + at % _RING_BYTES] for at in places)
            self._words[_ANSWERS_TAKEN] = (taken + ready) % _WRAP
            if ready:
                self._knock()
                continue
            assert time.monotonic() < deadline, "xenstored does not answer"
            time.sleep(_PAUSE_S)
        return bytes(data)

    def _knock(self) -> None:
        """Have the daemon look; which port it is said to be matters nothing."""
        os.write(self._events, struct.pack("<i", 1000))

    def close(self) -> None:
        """Let go."""
        self._words.release()
        self._page.close()
