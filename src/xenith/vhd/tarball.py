"""The OVF tarball of a chain: ``0.vhd`` the leaf, ``1.vhd`` its parent, and so on to the base.

It is a tar of VHDs without any manifest, gzip as one likes, written and read as a stream. Numbers
say who stands on whom. A hostile one is bounded by what it declares: a member is taken whole or
not at all, its size is known before its bytes, and no more of a gzip is unpacked than was asked.
Source: Nova's ``xenapi`` image handlers and its ``glance`` plugin.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, cast

from xenith.core.clock import Clock
from xenith.core.errors import Invalid
from xenith.vhd.alter import reparent
from xenith.vhd.chain import DEPTH_MAX, Chain
from xenith.vhd.files import File, Files
from xenith.vhd.footer import SIZE_BYTES_MAX
from xenith.vhd.image import open_image
from xenith.vhd.pipe import (
    CHUNK_BYTES,
    BlankFile,
    Peeked,
    PipeSink,
    Readable,
    Source,
    Writable,
    new_buffer,
)
from xenith.vhd.repair import check

_RECORD_BYTES = 512
#: What tar pads an archive to. Source: POSIX ``pax``, a block of twenty records.
_PADDING_BYTES = 10240
#: A file that was made as large as its disk has these on top: table, batmap and bitmaps.
_OVERHEAD = 1.02
MEMBER_BYTES_MAX = int(SIZE_BYTES_MAX * _OVERHEAD)
#: Of extended headers, which hold a name, a size and times.
_EXTENDED_BYTES_MAX = 64 * 1024
#: Of zeros behind the last member.
_END_BYTES_MAX = 1024 * 1024
_NAME = re.compile(r"(?:\./)?(0|[1-9][0-9]?)\.vhd")
_GZIP = b"\x1f\x8b"
_INPUT_BYTES = 256 * 1024


class Member:
    """One VHD of a tarball, to be read once before the next is asked for."""

    def __init__(self, number: int, size_bytes: int, source: Source) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self._source = source
        self.left = size_bytes

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; 0 at the member's end.

        Raises:
            Invalid: the tarball ends before.
        """
        part = buffer[: self.left]
        count = self._source.read_some(part)
        if count < len(part):
            raise _refuse(f"it ends within {self.number}.vhd, {self.left - count} bytes early")
        self.left -= count
        return count


def write_tarball(chain: Chain, out: Writable, *, gzip_level: int | None = None) -> None:
    """Write the files of a chain, byte for byte; without ``gzip_level`` they are not packed."""
    images = [(image.file, image.file.size()) for image in chain.images]
    with _packed(out, gzip_level) as stream:
        sink = PipeSink(stream)
        buffer = new_buffer(CHUNK_BYTES)
        for number, (file, size) in enumerate(images):
            sink.write(sink.at, member_head(number, size))
            _copy(file, size, sink, buffer)
            sink.end(-(-sink.at // _RECORD_BYTES) * _RECORD_BYTES)
        end = sink.at + 2 * _RECORD_BYTES
        sink.end(-(-end // _PADDING_BYTES) * _PADDING_BYTES)


def member_head(number: int, size_bytes: int) -> bytes:
    """Give the record that a member begins with, for those who stream what they make."""
    info = tarfile.TarInfo(f"{number}.vhd")
    info.size = size_bytes
    return info.tobuf(tarfile.GNU_FORMAT)


def read_tarball(
    stream: Readable, *, count_max: int = DEPTH_MAX, bytes_max: int = MEMBER_BYTES_MAX
) -> Iterator[Member]:
    """Give the members as they come, in any order; what of one is left unread is skipped.

    ``bytes_max`` bounds all members together. Only when all are taken is it known that the
    numbers are those of one chain, and that the archive is whole.

    Raises:
        Invalid: it holds anything but numbered VHDs, too many or too large ones, or is damaged.
    """
    source = Source(_unpacked(stream))
    seen: set[int] = set()
    total = 0
    while info := _next(source):
        number = _number(info)
        if number is None:
            continue
        total += info.size
        if number in seen or number >= count_max:
            raise _refuse(f"{number}.vhd comes twice, or is more than {count_max} files allow")
        if total > bytes_max:
            raise _refuse(f"its files have {total} bytes or more, and {bytes_max} are taken")
        seen.add(number)
        member = Member(number, info.size, source)
        begin = source.at
        yield member
        _skip(source, begin + -(-info.size // _RECORD_BYTES) * _RECORD_BYTES)
    _check_end(source)
    if not seen or seen != set(range(len(seen))):
        raise _refuse(f"its files {sorted(seen)} are not numbered from 0 on")


def unpack_tarball(
    stream: Readable,
    files: Files,
    names: Sequence[str],
    *,
    clock: Clock,
    bytes_max: int = MEMBER_BYTES_MAX,
) -> list[str]:
    """Write a tarball's chain into a directory, leaf first under ``names``; give those used.

    The directory is one where nothing looks yet: what is there after an error is to be thrown
    away, and what is there after none is one sound chain, linked by its numbers, to be moved
    into a repository as a whole. Paths that its files call their parents are not looked at.

    Raises:
        Invalid: it is no tarball of one sound chain with a visible leaf, or is too large.
    """
    taken = []
    for member in read_tarball(stream, count_max=len(names), bytes_max=bytes_max):
        file = files.open(names[member.number], create=True)
        try:
            _extract(member, BlankFile(file))
            file.sync()
        finally:
            file.close()
        taken.append(names[member.number])
    used = list(names[: len(taken)])
    for child, parent in zip(used[-2::-1], used[:0:-1], strict=True):
        _relink(files, child, parent)
    found = [one for one in check(files, used[0], clock=clock) if one.is_error]
    if found:
        raise _refuse(f"{found[0].name}: {found[0].text}")
    leaf = open_image(files, used[0])
    leaf.close()
    if leaf.footer.hidden:
        raise _refuse("its leaf is hidden")
    return used


def _extract(member: Member, sink: BlankFile) -> None:
    buffer, at = new_buffer(CHUNK_BYTES), 0
    source = Source(member)
    while count := source.read_some(buffer):
        sink.write(at, buffer[:count])
        at += count
    sink.end(at)


def _relink(files: Files, child: str, parent: str) -> None:
    base = open_image(files, parent)
    try:
        image = open_image(files, child, writable=True)
        try:
            if not image.has_parent:
                raise _refuse(f"{child} stands on no parent, and is not its last file")
            reparent(image, base, files=files)
        finally:
            image.close()
    finally:
        base.close()


def _next(source: Source) -> tarfile.TarInfo | None:
    """Read records up to the next member's; None at the end."""
    size: int | None = None
    name: str | None = None
    while True:
        record = _read(source, _RECORD_BYTES)
        if not any(record):
            return None
        try:
            info = tarfile.TarInfo.frombuf(record, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise _refuse(f"the record before byte {source.at} is no tar's") from error
        if info.size < 0:
            raise _refuse("a size in it is below zero")
        if info.type not in {tarfile.XHDTYPE, tarfile.XGLTYPE}:
            info.size = info.size if size is None else size
            info.name = name or info.name
            return info
        if info.size > _EXTENDED_BYTES_MAX:
            raise _refuse(f"an extended header in it has {info.size} bytes")
        data = _read(source, -(-info.size // _RECORD_BYTES) * _RECORD_BYTES)[: info.size]
        if info.type == tarfile.XHDTYPE:
            told = _records(data)
            if b"size" in told:
                size = _decimal(told[b"size"])
            if b"path" in told:
                name = told[b"path"].decode("utf-8", "replace")


def _number(info: tarfile.TarInfo) -> int | None:
    """Tell which file of the chain a member is; None for the directory that they lie in."""
    if info.type == tarfile.DIRTYPE and info.name in {".", "./"} and not info.size:
        return None
    found = _NAME.fullmatch(info.name)
    if info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or found is None:
        raise _refuse(f"{info.name[:80]!r} in it is no plain file called 0.vhd, 1.vhd and so on")
    return int(found[1])


def _records(data: bytes) -> dict[bytes, bytes]:
    r"""Read an extended header.

    >>> _records(b"13 size=1234\n")
    {b'size': b'1234'}
    """
    told, at = {}, 0
    while at < len(data):
        number, space, _ = data[at : at + 8].partition(b" ")
        length = _decimal(number) if space else 0
        key, equals, value = data[at + len(number) + 1 : at + length - 1].partition(b"=")
        is_whole = length > 0 and at + length <= len(data)
        if not (is_whole and equals and data[at + length - 1] == ord("\n")):
            raise _refuse("an extended header in it is damaged")
        told[key] = value
        at += length
    return told


def _decimal(data: bytes) -> int:
    # As long as 2^63 is.
    if not (data.isdigit() and len(data) <= 19):
        raise _refuse("an extended header in it is damaged")
    return int(data)


def _check_end(source: Source) -> None:
    """Read the rest, which is zeros, so that a gzip's own checksum is read too."""
    begin = source.at
    while rest := source.read_some(buffer := memoryview(bytearray(_PADDING_BYTES))):
        if any(buffer[:rest]) or source.at - begin > _END_BYTES_MAX:
            raise _refuse("there is more behind its end")


def _skip(source: Source, offset: int) -> None:
    try:
        source.skip_to(offset)
    except Invalid as error:
        raise _refuse(f"it ends at byte {source.at}") from error


def _read(source: Source, length_bytes: int) -> bytes:
    try:
        return source.read(length_bytes)
    except Invalid as error:
        raise _refuse(f"it ends at byte {source.at}") from error


def _copy(file: File, size: int, sink: PipeSink, buffer: memoryview) -> None:
    for at in range(0, size, len(buffer)):
        part = buffer[: size - at]
        file.read_into(at, part)
        sink.write(sink.at, part)


def _packed(out: Writable, gzip_level: int | None) -> AbstractContextManager[Writable]:
    if gzip_level is None:
        return nullcontext(out)
    # No time in it: the same chain makes the same bytes.
    fileobj = cast("BinaryIO", out)
    return gzip.GzipFile(fileobj=fileobj, mode="wb", compresslevel=gzip_level, mtime=0)


class _Gzip:
    """A gzip that is unpacked by what is asked of it, never by what it holds."""

    def __init__(self, stream: Readable) -> None:
        self._source = Source(stream)
        self._buffer = new_buffer(_INPUT_BYTES)
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._input = b""

    def readinto(self, buffer: memoryview, /) -> int:
        while buffer:
            if not self._input:
                count = self._source.read_some(self._buffer)
                self._input = bytes(self._buffer[:count])
            if self._inflate.eof:
                if not self._input:
                    return 0
                # Another gzip may follow the first, and is a part of it.
                self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            is_end = not self._input
            try:
                data = self._inflate.decompress(self._input, len(buffer))
            except zlib.error as error:
                raise _refuse(f"its gzip is damaged: {error}") from error
            self._input = self._inflate.unconsumed_tail or self._inflate.unused_data
            if data:
                buffer[: len(data)] = data
                return len(data)
            if is_end and not self._inflate.eof:
                raise _refuse("its gzip is cut off")
        return 0


def _unpacked(stream: Readable) -> Readable:
    peeked = Peeked(stream, len(_GZIP))
    return _Gzip(peeked) if peeked.first == _GZIP else peeked


def _refuse(message: str) -> Invalid:
    return Invalid(f"This is no sound tarball of VHDs: {message}.", kind="VhdInvalid")
