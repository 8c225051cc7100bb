"""A disk as a chain of VHDs: what the leaf lacks is in its parent, and at last is zero.

A chain is opened inside one repository: each parent is a file of that directory, is the one whose
UUID the child names, and comes at most thirty levels deep, so that a loop ends too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from xenith.core.errors import Exhausted, NotFound
from xenith.vhd.files import Bytes, Files
from xenith.vhd.footer import SECTOR_BYTES, refuse
from xenith.vhd.image import Image, check_writable, find_parent_names, open_image

#: Files of one chain. Source: sm refuses a snapshot of a VHD of depth 30.
DEPTH_MAX = 30
#: Ranges of so many sectors are mapped link by link; what is shorter has few runs, and what is
#: longer is mostly one link's or nobody's.
_OVERLAID_MIN, _OVERLAID_MAX = 256, 16384


class Run(NamedTuple):
    """``length`` sectors: the link that has them (0 is the leaf; None: zeros), and where in it."""

    sector: int
    length: int
    link: int | None
    place: int


class Chain:
    """An open chain, for one thread. ``images`` begin with the leaf, the only one written to."""

    def __init__(self, images: list[Image]) -> None:
        self.images = images

    @property
    def leaf(self) -> Image:
        """The VHD that is written to."""
        return self.images[0]

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""
        return self.leaf.size_bytes

    def runs(
        self, first: int = 0, count: int | None = None, *, links: int | None = None
    ) -> Iterator[Run]:
        """Map a range of sectors: runs in order, without a gap, each in one place.

        ``links`` looks at so many links from the leaf on, and gives what lies deeper as None:
        the difference of a disk to its own ancestor is its runs with a link.
        """
        count = self.leaf.sectors - first if count is None else count
        depth = len(self.images) if links is None else links
        nothing: Run | None = None
        is_overlaid = depth > 1 and _OVERLAID_MIN <= count <= _OVERLAID_MAX
        found = (
            self._overlaid(first, count, depth)
            if is_overlaid
            else self._runs(0, first, count, depth)
        )
        for run in found:
            if run.link is None:
                # Neighbours that are nowhere are one run, however many links said so.
                begin = nothing.sector if nothing else run.sector
                nothing = Run(begin, run.sector + run.length - begin, None, 0)
                continue
            if nothing:
                yield nothing
                nothing = None
            yield run
        if nothing:
            yield nothing

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill the view with the disk's bytes from the offset on.

        Raises:
            Invalid: that is not whole sectors of the disk.
        """
        self.leaf.check_range(offset, len(view))
        for run in self.runs(offset // SECTOR_BYTES, len(view) // SECTOR_BYTES):
            begin = run.sector * SECTOR_BYTES - offset
            self.read_run(run, view[begin : begin + run.length * SECTOR_BYTES])

    def read_run(self, run: Run, view: memoryview) -> None:
        """Fill the view, of a run's length, with the run's bytes."""
        if run.link is None:
            view[:] = bytes(len(view))
        else:
            self.images[run.link].file.read_into(run.place, view)

    def read(self, offset: int, length_bytes: int) -> bytes:
        """Read bytes of the disk.

        Raises:
            Invalid: that is not whole sectors of the disk.
        """
        self.leaf.check_range(offset, length_bytes)
        data = bytearray(length_bytes)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, data: Bytes) -> None:
        """Write sectors to the leaf; they are on the disk after the next ``flush``."""
        self.leaf.write(offset, data)

    def flush(self) -> None:
        """Bring all that was written to the disk."""
        self.leaf.flush()

    def close(self) -> None:
        """Close all links; what was not flushed is lost."""
        for image in self.images:
            image.close()

    def _runs(self, link: int, first: int, count: int, depth: int) -> Iterator[Run]:
        image = self.images[link]
        inside = max(0, min(count, image.sectors - first))
        is_last = link + 1 >= depth or link + 1 >= len(self.images)
        for sector, length, place in image.extents(first, inside) if inside else ():
            if place is not None:
                yield Run(sector, length, link, place)
            elif is_last:
                yield Run(sector, length, None, 0)
            else:
                yield from self._runs(link + 1, sector, length, depth)
        if inside < count:
            # A child that was grown sees zeros behind its parent's end.
            yield Run(first + inside, count - inside, None, 0)

    def _overlaid(self, first: int, count: int, depth: int) -> Iterator[Run]:
        """Map a range as ``_runs`` does, laying each link over those below it.

        That asks every link once for the range, where going down at every gap asks for each gap:
        with five links of scattered writes it costs a fifth.
        """
        owner = np.full(count, -1, np.int16)
        #: Where in the owner's file a sector is, less the sector's own offset.
        shift = np.zeros(count, np.int64)
        for link in range(min(depth, len(self.images)) - 1, -1, -1):
            image = self.images[link]
            inside = max(0, min(count, image.sectors - first))
            # Behind a link's end are zeros, whatever is below it.
            owner[inside:], shift[inside:] = -1, 0
            for sector, length, place in image.extents(first, inside) if inside else ():
                if place is not None:
                    here = slice(sector - first, sector - first + length)
                    owner[here], shift[here] = link, place - sector * SECTOR_BYTES
        turns = np.flatnonzero((owner[1:] != owner[:-1]) | (shift[1:] != shift[:-1])) + 1
        begin = 0
        for end in [*turns.tolist(), count]:
            link, sector = int(owner[begin]), first + begin
            place = int(shift[begin]) + sector * SECTOR_BYTES
            is_there = link >= 0
            yield Run(sector, end - begin, link if is_there else None, place if is_there else 0)
            begin = end


def open_chain(
    files: Files, name: str, *, writable: bool = False, depth_max: int = DEPTH_MAX
) -> Chain:
    """Open a disk with all that it stands on; only the leaf is ever opened for writing.

    Raises:
        Invalid: a link is no sound VHD, or its parent is not in the repository.
        NotFound: there is no such file.
        Conflict: it was to be written, and is hidden or written to by another.
        Exhausted: it is deeper than ``depth_max``.
    """
    images = [open_image(files, name, writable=writable)]
    try:
        if writable:
            check_writable(images[0])
        while images[-1].has_parent:
            if len(images) >= depth_max:
                raise Exhausted(
                    f"The chain of {name} is deeper than {depth_max}: coalesce it, or it loops.",
                    kind="VhdChainTooLong",
                )
            images.append(open_parent(files, images[-1]))
    except BaseException:
        for image in images:
            image.close()
        raise
    return Chain(images)


def open_parent(files: Files, child: Image) -> Image:
    """Open the file whose UUID the child names, among those that its locators may mean.

    Raises:
        Invalid: there is none in the repository.
    """
    assert child.header is not None, "only a disk with a header has a parent"
    names = find_parent_names(child.file, child.header, files.path)
    met: list[str] = []
    for name in names:
        try:
            parent = open_image(files, name)
        except NotFound:
            continue
        if parent.footer.uuid == child.header.parent_uuid:
            return parent
        met.append(f"{name} is {parent.footer.uuid}")
        parent.close()
    told = "; ".join(met) or f"none of {names} is here" if names else "its path leads elsewhere"
    raise refuse(
        f"the parent {child.header.parent_uuid} of {child.name} is not in the repository: {told}"
    ) from None
