"""The header of a swap area, as ``mkswap`` writes it: one page, and the rest of the disk is free.

Pure. Source: Linux, include/linux/swap.h, ``union swap_header``: a version, the number of the last
page, how many pages are bad, a UUID and a label from byte 1024 on, and the signature at the end of
the first page; in the byte order of the guest's processor, which is little here.
"""

from __future__ import annotations

import struct

#: Source: x86; a header for other page sizes would have its signature elsewhere.
PAGE_BYTES = 4096
SIGNATURE = b"SWAPSPACE2"
_VERSION = 1
_INFO_OFFSET = 1024
#: Pages below which the kernel takes no swap area. Source: util-linux, mkswap.
PAGES_MIN = 10


def swap_header(size_bytes: int, *, uuid: bytes, label: str = "swap") -> bytes:
    """Give the first page of a swap area on a disk of that size; ``uuid`` has 16 bytes.

    >>> page = swap_header(2**20, uuid=bytes(16))
    >>> len(page), page[-10:], page[1024:1036].hex()
    (4096, b'SWAPSPACE2', '01000000ff00000000000000')
    """
    page_count = min(size_bytes // PAGE_BYTES, 2**32)
    assert page_count >= PAGES_MIN, f"a swap area of {size_bytes} bytes is too small"
    assert len(uuid) == 16, "a UUID has 16 bytes"
    name = label.encode()[:15]
    info = struct.pack("<III16s16s", _VERSION, page_count - 1, 0, uuid, name)
    page = bytes(_INFO_OFFSET) + info
    return page.ljust(PAGE_BYTES - len(SIGNATURE), b"\0") + SIGNATURE
