"""What the first bytes of an image's file say: how large a disk it becomes."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

from xenith.core.errors import Invalid
from xenith.core.limits import IMAGE_BYTES_MAX
from xenith.driver import qcow2

#: Bytes at the head of a stream that tell what it is.
_HEAD_BYTES = 512
_VHD_COOKIE = b"conectix"
_VHD_FIXED, _VHD_DYNAMIC = 2, 3


async def peek(chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Read a stream's head and give the head, and the whole stream."""
    pieces: list[bytes] = []
    async for chunk in chunks:
        pieces.append(chunk)
        if sum(map(len, pieces)) >= _HEAD_BYTES:
            break
    head = b"".join(pieces)

    async def whole() -> AsyncIterator[bytes]:
        yield head
        async for chunk in chunks:
            yield chunk

    return head[:_HEAD_BYTES], whole()


def disk_size(head: bytes, disk_format: str, size_bytes: int) -> int:
    """Tell how large a disk an image becomes, from its first 512 bytes.

    Source: VHD specification 1.0, Hard Disk Footer: a fixed VHD has it only at the end.

    Raises:
        Invalid: the image is not what it says, leans on another file, or no host takes its format.
    """
    if disk_format == "raw":
        size = size_bytes
    elif disk_format == "qcow2":
        size = qcow2.virtual_size(head)
    elif disk_format == "vhd":
        size = _vhd_size(head, size_bytes)
    else:
        raise Invalid(f"an image of format {disk_format[:32]} cannot be a server's disk")
    if not 0 < size <= IMAGE_BYTES_MAX:
        raise Invalid(f"a disk of {size} bytes is outside the limits")
    return size


def _vhd_size(head: bytes, size_bytes: int) -> int:
    if not head.startswith(_VHD_COOKIE):
        return size_bytes - 512
    if len(head) < 512:
        raise Invalid("the image is cut off in its header")
    size, _, kind = struct.unpack_from(">QII", head, 48)
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        raise Invalid("the image is a differencing VHD: its parent is another file")
    return int(size)
