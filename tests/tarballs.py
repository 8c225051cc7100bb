"""Chains of VHDs in OVF tarballs, made for tests."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image
from xenith.vhd.tarball import write_tarball


def make(
    place: Path,
    links: Sequence[Mapping[int, bytes]],
    size_bytes: int,
    *,
    gzip_level: int | None = None,
    only: Sequence[str] = (),
) -> bytes:
    """Give a chain as a tarball: what each link holds by offset, the base first.

    ``only`` names members that are kept, the others being left out.
    """
    files, world = Directory(place), World(clock=ManualClock(), ids=Ids(seed=1))
    names = [f"link{number}.vhd" for number in range(len(links))]
    for number, (name, parts) in enumerate(zip(names, links, strict=True)):
        if number:
            create_differencing(files, name, parent=names[number - 1], world=world)
        else:
            create_dynamic(files, name, size_bytes=size_bytes, world=world)
        image = open_image(files, name, writable=True)
        for offset, data in parts.items():
            image.write(offset, data)
        image.flush()
        image.close()
    chain, out = open_chain(files, names[-1]), io.BytesIO()
    if only:
        kept = [link for at, link in enumerate(chain.images) if f"{at}.vhd" in only]
        write_tarball(type(chain)(kept), out, gzip_level=gzip_level)
    else:
        write_tarball(chain, out, gzip_level=gzip_level)
    chain.close()
    files.close()
    return out.getvalue()
