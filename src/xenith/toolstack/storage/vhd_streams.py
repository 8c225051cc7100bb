"""VHD streams into a disk and out of it, between the codecs of ``xenith.vhd`` and a repository.

Source: xapi, PUT /import_raw_vdi and GET /export_raw_vdi with ``format=vhd`` and ``base``.
"""

from __future__ import annotations

from xenith.core.errors import Invalid
from xenith.core.world import World
from xenith.toolstack.backends import BackendError
from xenith.toolstack.storage.contents import Writer
from xenith.vhd.chain import Chain
from xenith.vhd.decoder import apply
from xenith.vhd.delta import encode_change
from xenith.vhd.encoder import encode_dynamic
from xenith.vhd.files import Bytes
from xenith.vhd.footer import FIXED, FOOTER_BYTES, SIZE_BYTES_MAX, decode_footer
from xenith.vhd.pipe import Peeked, PipeSink, Readable, Writable
from xenith.vhd.zeros import is_zero


def read_vhd(disk: Writer, stream: Readable) -> int:
    """Write a VHD stream onto a disk, growing it if need be; tell the stream's virtual size.

    A differencing one is laid over what the disk holds; any other replaces it.

    Raises:
        BackendError: VDI_IO_ERROR, it is no sound VHD; VDI_TOO_LARGE.
    """
    peeked = Peeked(stream, FOOTER_BYTES)
    leaf = disk.chain.leaf
    is_blank = not leaf.has_parent and leaf.header is not None and not leaf.blocks()
    try:
        if (size := _size_bytes(peeked.first)) is not None:
            disk.grow(size)
        footer = apply(peeked, _Target(disk), is_blank=is_blank)
    except Invalid as error:
        raise BackendError("VDI_IO_ERROR", error.message) from error
    disk.grow(footer.size_bytes)
    disk.flush()
    return footer.size_bytes


def write_vhd(chain: Chain, base: Chain | None, stream: Writable, *, world: World) -> None:
    """Write a disk as a dynamic VHD, or as the differencing one that makes it of ``base``.

    Disks of one tree cost what they differ in; others are both read and compared.

    Raises:
        Invalid: the base is the larger.
    """
    sink = PipeSink(stream)
    if base is None:
        encode_dynamic(chain, sink, world=world)
    else:
        encode_change(chain, base, sink, world=world)


def _size_bytes(first: bytes) -> int | None:
    """Tell the virtual size, if a stream begins with it: a fixed disk's ends with it."""
    if not first.startswith(b"conectix"):
        return None
    footer = decode_footer(first)
    return None if footer.kind == FIXED else footer.size_bytes


class _Target:
    """A disk that grows as it is written, and in which zeros take no room that they need not."""

    size_bytes = SIZE_BYTES_MAX

    def __init__(self, disk: Writer) -> None:
        self._disk = disk

    def write(self, offset: int, data: Bytes) -> None:
        """Write whole sectors."""
        end = offset + len(data)
        if is_zero(memoryview(data)):
            self._disk.zero(offset, min(end, self._disk.size_bytes) - offset)
            return
        if end > self._disk.size_bytes:
            self._disk.grow(end)
        self._disk.write(offset, data)
