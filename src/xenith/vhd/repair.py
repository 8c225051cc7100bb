"""What is wrong with a VHD and its chain, and what of that can be put right.

``check`` reads and changes nothing. ``repair`` makes good what the file still knows: a footer
from its copy, a copy from its footer. Blocks that were cut off are gone; they become holes only
when that is asked for, since a hole shows what the parent held before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenith.core.clock import Clock
from xenith.core.errors import Invalid
from xenith.vhd.chain import DEPTH_MAX, open_parent
from xenith.vhd.create import vhd_time
from xenith.vhd.files import File, Files, read
from xenith.vhd.footer import FIXED, SECTOR_BYTES, Footer
from xenith.vhd.header import ABSENT, Header, decode_table, taken_ranges
from xenith.vhd.image import Image, open_image, read_copy, read_ends, read_header

#: What clocks of two hosts may differ by before a footer counts as one of the future.
CLOCK_SKEW_S = 300
_NO_END = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong; an error makes the disk unsafe to use, the rest is for the eye."""

    name: str
    is_error: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What a repair did, and the ranges of the disk, in bytes, that are lost."""

    done: tuple[str, ...]
    lost: tuple[tuple[int, int], ...] = ()


def check(files: Files, name: str, *, clock: Clock) -> list[Finding]:
    """List what is wrong with a disk and with all that it stands on.

    Raises:
        NotFound: there is no such file.
    """
    found: list[Finding] = []
    image: Image | None = None
    try:
        image = open_image(files, name)
        found += _check_image(image, clock)
        for _ in range(DEPTH_MAX):
            if not image.has_parent:
                return found
            parent = open_parent(files, image)
            image.close()
            found += _check_link(files, image, parent)
            image = parent
            found += _check_image(image, clock)
        told = f"its chain is deeper than {DEPTH_MAX}, or loops"
        return [*found, Finding(name=name, is_error=True, text=told)]
    except Invalid as error:
        return [*found, Finding(name=name, is_error=True, text=error.message)]
    finally:
        if image is not None:
            image.close()


def repair(files: Files, name: str, *, accept_loss: bool = False) -> Repair:
    """Put a file right; ``accept_loss`` makes blocks that were cut off into holes.

    Raises:
        Invalid: it cannot be, or not without loss.
        Conflict: another writes to it.
        NotFound: there is no such file.
    """
    file = files.open(name, writable=True)
    try:
        footer, is_trailing = read_ends(file)
        done: list[str] = []
        lost: list[tuple[int, int]] = []
        if footer.kind != FIXED:
            header = read_header(file, footer)
            lost, end = _find_lost(file, footer, header)
            if lost and not accept_loss:
                raise Invalid(
                    f"{name} is cut off: {len(lost)} of its blocks are gone. A repair that accepts"
                    " the loss makes them holes.",
                    kind="VhdTruncated",
                )
            if lost:
                file.truncate(end)
                file.sync()
                is_trailing = False
                done.append(f"{len(lost)} blocks that were cut off are holes")
        done += _write_ends(file, footer, is_trailing)
    finally:
        file.close()
    return Repair(done=tuple(done), lost=tuple(lost))


def _check_image(image: Image, clock: Clock) -> list[Finding]:
    def finding(text: str, *, is_error: bool = False) -> None:
        found.append(Finding(name=image.name, is_error=is_error, text=text))

    found: list[Finding] = []
    footer = image.footer
    if not image.footer_is_sound:
        finding("the footer at its end is lost; its copy at the beginning is sound", is_error=True)
    elif image.file.size() % SECTOR_BYTES:
        finding("its footer has 511 bytes, as Virtual PC wrote them")
    # Source: vhd-util check refuses such a file, and so does the import of an image.
    if footer.timestamp_s > vhd_time(clock.now() + CLOCK_SKEW_S):
        finding("its footer was made in the future", is_error=True)
    if image.header is None:
        return found
    if image.footer_is_sound and read_copy(image.file) != footer:
        finding("the copy of its footer is not like its footer", is_error=True)
    used = image.header.bitmap_bytes + image.header.block_bytes
    named = len(image.blocks()) * (used + 4096) + image.header.table_offset
    named += image.header.entries * 5 + 8192
    if (spare := image.file.size() - named) > used:
        finding(f"about {spare} bytes of it are named by nothing, as a crash leaves them")
    return found


def _check_link(files: Files, child: Image, parent: Image) -> list[Finding]:
    assert child.header is not None, "only a disk with a header has a parent"
    found: list[Finding] = []
    if parent.size_bytes > child.size_bytes:
        text = f"its parent {parent.name} is larger than it is"
        found.append(Finding(name=child.name, is_error=True, text=text))
    if not parent.footer.hidden:
        text = f"{child.name} stands on it, and it is not hidden: it could be written to"
        found.append(Finding(name=parent.name, is_error=False, text=text))
    # No error: a coalesce, a copy and a growing parent all change the time and not the bytes
    # that the child means. The UUID is what says that this is the parent.
    told = child.header.parent_timestamp_s
    if told and abs(told - vhd_time(files.modified_s(parent.name))) > CLOCK_SKEW_S:
        text = f"{parent.name} was written to after {child.name} was made on it"
        found.append(Finding(name=child.name, is_error=False, text=text))
    return found


def _find_lost(file: File, footer: Footer, header: Header) -> tuple[list[tuple[int, int]], int]:
    """List the ranges of the disk whose blocks are not whole, and where the file ends with them."""
    data = read(file, header.table_offset, header.entries * 4)
    taken = taken_ranges(header, footer.data_offset)
    table = decode_table(data, header, file_bytes=_NO_END, taken=taken).astype(np.int64)
    stride = header.bitmap_bytes + header.block_bytes
    ends = np.where(table == ABSENT, 0, table * SECTOR_BYTES + stride)
    cut = np.flatnonzero(ends > file.size()).tolist()
    block = header.block_bytes
    ranges = [(one * block, min((one + 1) * block, footer.size_bytes)) for one in cut]
    return ranges, int(ends.max(initial=0))


def _write_ends(file: File, footer: Footer, is_trailing: bool) -> list[str]:
    done, size, data = [], file.size(), footer.encode()
    if not is_trailing:
        file.write(-(-size // SECTOR_BYTES) * SECTOR_BYTES, data)
        done.append("its footer is made from the copy")
    elif size % SECTOR_BYTES:
        file.write(size - size % SECTOR_BYTES, data)
        done.append("its footer of 511 bytes has all 512")
    # The one at the end first: of the two, one is sound at each moment.
    file.sync()
    if footer.kind != FIXED and read_copy(file) != footer:
        file.write(0, data)
        file.sync()
        done.append("the copy of its footer is made from its footer")
    return done
