"""OVF tarballs of VHDs for hosts, which take disks one by one: a chain becomes one VHD.

A tarball begins with the leaf, which stands on what comes behind it, so that all of it has to be
here before the first of its bytes can be given. It is a tenant's, and a bounded process reads it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from xenith.core.errors import Invalid
from xenith.driver.tools import run_tool, store_file
from xenith.vhd.tarball_process import FLAT_NAME

FLATTEN_TIMEOUT_S = 3600.0


@asynccontextmanager
async def converted_to_vhd(chunks: AsyncIterator[bytes]) -> AsyncIterator[Path]:
    """Give the path of the disk of a tarball as one dynamic VHD, for the length of the block.

    Raises:
        Invalid: the stream is no tarball of one sound chain.
        Unavailable: it was not unpacked in time.
    """
    with TemporaryDirectory(prefix="xenith-image-") as directory:
        tarball = Path(directory, "image.tar")
        await store_file(chunks, tarball)
        await run_tool(
            *(sys.executable, "-m", "xenith.vhd.tarball_process", "flatten"),
            str(tarball),
            directory,
            timeout_s=FLATTEN_TIMEOUT_S,
            doing="unpack the tarball",
            failure=Invalid,
        )
        yield Path(directory, FLAT_NAME)
