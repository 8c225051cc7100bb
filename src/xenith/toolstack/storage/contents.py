"""Bytes into a disk and out of it: raw streams, and whole copies of a chain in one file.

Streams in VHD's own format (``vhd_streams``) take the same two ends: a ``Chain`` to read from, a
``Writer`` to write to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from xenith.core.errors import NotFound
from xenith.core.world import World
from xenith.toolstack.backends import BackendError
from xenith.toolstack.storage.space import Space
from xenith.vhd.alter import resize
from xenith.vhd.chain import Chain, open_chain
from xenith.vhd.create import NEW_SUFFIX, create_dynamic
from xenith.vhd.files import Bytes, Files
from xenith.vhd.footer import SECTOR_BYTES, SIZE_BYTES_MAX

#: Bytes moved at a time: one block, so that each has its room looked for.
CHUNK_BYTES = 2 * 1024 * 1024
#: Zeros are looked for in pieces of this size.
_PIECE_BYTES = 64 * 1024
_ZEROS = bytes(_PIECE_BYTES)


class Writer:
    """A disk open for writing, which stops before the repository is full."""

    def __init__(self, chain: Chain, space: Space) -> None:
        self.chain = chain
        self._space = space

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""
        return self.chain.size_bytes

    def write(self, offset: int, data: Bytes) -> None:
        """Write sectors; they are on the disk after the next ``flush``.

        Raises:
            BackendError: SR_FULL.
        """
        self._space.need(len(data))
        self.chain.write(offset, data)

    def zero(self, offset: int, length_bytes: int) -> None:
        """Make sectors zero; those that are nowhere are so already.

        Raises:
            BackendError: SR_FULL.
        """
        if length_bytes <= 0:
            return
        first, count = offset // SECTOR_BYTES, length_bytes // SECTOR_BYTES
        for run in list(self.chain.runs(first, count)):
            at, left = run.sector * SECTOR_BYTES, run.length * SECTOR_BYTES
            while run.link is not None and left:
                part = min(left, len(_ZEROS))
                self.write(at, memoryview(_ZEROS)[:part])
                at, left = at + part, left - part

    def read(self, offset: int, length_bytes: int) -> bytes:
        """Read sectors, those that were just written too."""
        return self.chain.read(offset, length_bytes)

    def grow(self, size_bytes: int) -> None:
        """Make the disk at least so large, in whole blocks.

        Raises:
            BackendError: VDI_TOO_LARGE.
        """
        size = rounded(size_bytes)
        if size > SIZE_BYTES_MAX:
            raise BackendError("VDI_TOO_LARGE", "", str(SIZE_BYTES_MAX))
        if size > self.size_bytes:
            resize(self.chain.leaf, size)

    def flush(self) -> None:
        """Bring all that was written to the disk."""
        self.chain.flush()


def rounded(size_bytes: int) -> int:
    """Round a size up to whole blocks, as sm does.

    >>> rounded(1), rounded(4 << 20)
    (2097152, 4194304)
    """
    return -(-size_bytes // CHUNK_BYTES) * CHUNK_BYTES


def read_raw(chain: Chain) -> Iterator[bytes]:
    """Give a disk's bytes from its first to its last."""
    for offset in range(0, chain.size_bytes, CHUNK_BYTES):
        yield chain.read(offset, min(CHUNK_BYTES, chain.size_bytes - offset))


def write_raw(disk: Writer, chunks: Iterable[Bytes]) -> int:
    """Write a stream over a disk's first bytes; tell how many, an incomplete sector filled up.

    The disk grows where the stream is longer. Zeros take no room on a disk that holds nothing.
    """
    leaf = disk.chain.leaf
    is_blank = not leaf.has_parent and leaf.header is not None and not leaf.blocks()
    at = 0
    for piece in _sectors(chunks):
        if at + len(piece) > disk.size_bytes:
            disk.grow(at + len(piece))
        for offset, part in _filled(piece) if is_blank else ((0, piece),):
            disk.write(at + offset, part)
        at += len(piece)
    disk.flush()
    return at


def copy_chain(chain: Chain, files: Files, name: str, *, space: Space, world: World) -> None:
    """Make one file of a chain, without a parent; it is there whole or not at all."""
    # A name that no scan looks for, and that is removed when a repository is opened.
    working = name + NEW_SUFFIX
    create_dynamic(files, working, size_bytes=chain.size_bytes, world=world)
    try:
        target = open_chain(files, working, writable=True)
        try:
            _pour(chain, Writer(target, space))
        finally:
            target.close()
        files.rename(working, name)
        files.sync()
    except BaseException:
        with contextlib.suppress(NotFound):
            files.unlink(working)
        raise


def _pour(chain: Chain, target: Writer) -> None:
    buffer = memoryview(bytearray(min(CHUNK_BYTES, chain.size_bytes)))
    most = CHUNK_BYTES // SECTOR_BYTES
    for run in chain.runs():
        if run.link is None:
            continue
        for done in range(0, run.length, most):
            count = min(most, run.length - done)
            view = buffer[: count * SECTOR_BYTES]
            place = run.place + done * SECTOR_BYTES
            chain.read_run(run._replace(length=count, place=place), view)
            for offset, part in _filled(view):
                target.write((run.sector + done) * SECTOR_BYTES + offset, part)
    target.flush()


def _filled(data: Bytes) -> Iterator[tuple[int, memoryview]]:
    """Give the parts of some sectors that are not zero, with their offsets, as few as it takes."""
    view, begin = memoryview(data), -1
    for at in range(0, len(view), _PIECE_BYTES):
        piece = view[at : at + _PIECE_BYTES]
        is_zero = piece == _ZEROS[: len(piece)]
        if is_zero and begin >= 0:
            yield begin, view[begin:at]
            begin = -1
        elif not is_zero and begin < 0:
            begin = at
    if begin >= 0:
        yield begin, view[begin:]


def _sectors(chunks: Iterable[Bytes]) -> Iterator[memoryview]:
    """Make chunks of any length into ones of whole sectors."""
    held = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while view:
            part = view[: CHUNK_BYTES - len(held)]
            held += part
            view = view[len(part) :]
            if len(held) == CHUNK_BYTES:
                yield memoryview(bytes(held))
                held.clear()
    if held:
        held.extend(bytes(-len(held) % SECTOR_BYTES))
        yield memoryview(bytes(held))
