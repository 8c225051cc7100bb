"""Both ends of a stream: what is read once from the front, and what a stream is written to.

A sink is told offsets, so that one encoder serves both kinds of it: a pipe, which takes them in
order and gets zeros for what was left out, and a new file, where that is a hole.
"""

from __future__ import annotations

from mmap import mmap
from typing import Protocol

from xenith.core.errors import Invalid
from xenith.vhd.files import Bytes, File
from xenith.vhd.footer import refuse
from xenith.vhd.zeros import data_runs

#: Bytes read, compared and written at a time: what is read is still in a core's own cache when it
#: is written, and a block is a number of them. One thread does both: a second one that writes
#: behind saves a tenth of the time for a sixth more of the processors, which are the guests'.
CHUNK_BYTES = 1024 * 1024
#: As many as a block of the usual size has.
ZEROS = memoryview(bytes(2 * 1024 * 1024))


class Readable(Protocol):
    """What can be read once, as files opened with ``buffering=0`` and sockets' files can."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a part of the buffer, and tell how much; 0 at the end."""


class Writable(Protocol):
    """What can be written once, as files opened with ``buffering=0`` can."""

    def write(self, data: Bytes, /) -> int | None:
        """Write a part of the data, and tell how much."""


class Sink(Protocol):
    """Where a stream goes. Nothing is there before, and what is left out becomes zeros."""

    #: It takes offsets in order only, each byte once.
    in_order: bool

    def write(self, offset: int, data: Bytes) -> None:
        """Write all of the bytes at the offset."""

    def end(self, size_bytes: int) -> None:
        """Make it so long, with zeros up to there."""


def new_buffer(length_bytes: int) -> memoryview:
    """Give memory of zeros that begins on a page.

    A ``bytearray`` begins 16 bytes behind a cache line's edge, and the kernel takes half as long
    again to copy into it and out of it (measured on an AMD EPYC).
    """
    return memoryview(mmap(-1, length_bytes))


class Source:
    """A stream that is read from its front to its end; ``at`` is the next byte's offset."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.at = 0

    def read_some(self, view: memoryview) -> int:
        """Fill the view as far as the stream goes; tell how far."""
        done = 0
        while done < len(view):
            count = self._stream.readinto(view[done:])
            if count is None:
                raise BlockingIOError("a stream that does not wait cannot be read from")
            if not count:
                break
            done += count
        self.at += done
        return done

    def read_into(self, view: memoryview) -> None:
        """Fill the view.

        Raises:
            Invalid: the stream ends before.
        """
        begin = self.at
        if self.read_some(view) < len(view):
            raise refuse(f"it ends at byte {self.at}, and {len(view)} were due from {begin} on")

    def read(self, length_bytes: int) -> bytes:
        """Read bytes that must be there; of a length that the caller has bounded."""
        data = bytearray(length_bytes)
        self.read_into(memoryview(data))
        return bytes(data)

    def skip_to(self, offset: int) -> None:
        """Read on to an offset and drop what is before it."""
        if self.at >= offset:
            return
        spare = new_buffer(min(CHUNK_BYTES, offset - self.at))
        while self.at < offset:
            self.read_into(spare[: offset - self.at])


class Peeked:
    """A stream whose first bytes have been looked at; it gives them all the same."""

    def __init__(self, stream: Readable, length_bytes: int) -> None:
        self._stream = stream
        data = bytearray(length_bytes)
        #: As many of them as the stream has.
        self.first = bytes(data[: Source(stream).read_some(memoryview(data))])
        self._left = self.first

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a part of the buffer."""
        if not self._left:
            return self._stream.readinto(buffer)
        part = self._left[: len(buffer)]
        buffer[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)


class PipeSink:
    """A sink that cannot go back: a pipe, a socket, the body of an answer."""

    in_order = True

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self.at = 0

    def write(self, offset: int, data: Bytes) -> None:
        """Write the bytes, behind zeros up to the offset."""
        assert offset >= self.at, f"a pipe at {self.at} does not go back to {offset}"
        self.end(offset)
        self._put(memoryview(data))

    def end(self, size_bytes: int) -> None:
        """Write zeros up to a length."""
        while self.at < size_bytes:
            self._put(ZEROS[: size_bytes - self.at])

    def _put(self, view: memoryview) -> None:
        while view:
            count = self._stream.write(view)
            if count is None:
                raise BlockingIOError("a stream that does not wait cannot be written to")
            self.at += count
            view = view[count:]


class BlankFile:
    """A sink that is a new and empty file: zeros are left as holes."""

    in_order = False

    def __init__(self, file: File) -> None:
        if file.size():
            raise Invalid("A stream is written to a new file, and this one has bytes already.")
        self._file = file

    def write(self, offset: int, data: Bytes) -> None:
        """Write what of the bytes is not zero."""
        view = memoryview(data)
        for begin, end in data_runs(view):
            self._file.write(offset + begin, view[begin:end])

    def end(self, size_bytes: int) -> None:
        """Give it its length."""
        self._file.truncate(size_bytes)
