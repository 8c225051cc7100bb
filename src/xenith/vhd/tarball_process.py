"""``python -m xenith.vhd.tarball_process``: a tenant's tarball, read where it can do no harm.

    inspect                      the tarball on the standard input is read to its end
    flatten TARBALL DIRECTORY    it is unpacked into the directory, and becomes ``image.vhd`` there

Both print the size of the disk in bytes. What is refused ends with code 1 and a line that says why.
A process of its own, with memory, time and the size of files bounded, so that nobody waits for a
gzip that is unpacked, and nothing but this is lost by one that was made to be.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from xenith.core.clock import SystemClock
from xenith.core.errors import Invalid, XenithError
from xenith.core.ids import Ids
from xenith.core.limits import IMAGE_BYTES_MAX
from xenith.core.world import World
from xenith.vhd.chain import DEPTH_MAX, open_chain
from xenith.vhd.decoder import Decoder
from xenith.vhd.encoder import encode_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.pipe import PipeSink, Readable
from xenith.vhd.tarball import MEMBER_BYTES_MAX, read_tarball, unpack_tarball

#: What ``flatten`` leaves in its directory.
FLAT_NAME = "image.vhd"
#: What one tarball may take beside the program. A chain of 30 disks of 2 TiB has 120 MiB of tables.
ADDRESS_SPACE_BYTES_MAX = 2 * 1024**3
CPU_S_MAX = 3600


class _Link(NamedTuple):
    uuid: UUID
    parent: UUID | None
    size_bytes: int
    is_hidden: bool


def inspect_tarball(stream: Readable) -> int:
    """Read a tarball to its end; give the bytes of the disk that its chain is.

    Each file is read as the stream it is, with all that it says of its blocks. Which one stands on
    which is told by the numbers, and borne out by the UUIDs. Paths in parent locators are not read.

    Raises:
        Invalid: it is no tarball of one sound chain with a visible leaf, or is too large.
    """
    links: dict[int, _Link] = {}
    for member in read_tarball(stream, bytes_max=IMAGE_BYTES_MAX):
        vhd = Decoder(member, size_bytes_max=IMAGE_BYTES_MAX)
        for _ in vhd.pieces():
            pass
        assert vhd.head is not None, "its end was read"
        parent = vhd.header.parent_uuid if vhd.has_parent and vhd.header else None
        links[member.number] = _Link(
            vhd.head.uuid, parent, vhd.head.size_bytes, bool(vhd.head.hidden)
        )
    chain = [links[number] for number in sorted(links)]
    _check_links(chain)
    return chain[0].size_bytes


def _check_links(chain: list[_Link]) -> None:
    for number, link in enumerate(chain):
        below = chain[number + 1] if number + 1 < len(chain) else None
        wanted = None if below is None else below.uuid
        if link.parent != wanted:
            stands = "nothing" if link.parent is None else str(link.parent)
            told = "it is the last" if below is None else f"{number + 1}.vhd is {wanted}"
            raise _refuse(f"{number}.vhd stands on {stands}, and {told}")
        if below is not None and below.size_bytes > link.size_bytes:
            raise _refuse(f"{number}.vhd is smaller than what it stands on")
    if len({link.uuid for link in chain}) < len(chain):
        raise _refuse("two of its files have one UUID")
    if chain[0].is_hidden:
        raise _refuse("its leaf is hidden")


def flatten(tarball: Path, directory: Path) -> int:
    """Make one VHD without a parent of a tarball, which is removed when it has been unpacked.

    Raises:
        Invalid: it is no tarball of one sound chain with a visible leaf, or is too large.
    """
    world = World(clock=SystemClock(), ids=Ids())
    files = Directory(directory)
    names = [f"{number}.vhd" for number in range(DEPTH_MAX)]
    with tarball.open("rb", buffering=0) as stream:
        leaf = unpack_tarball(stream, files, names, clock=world.clock, bytes_max=IMAGE_BYTES_MAX)[0]
    tarball.unlink()
    chain = open_chain(files, leaf)
    with (directory / FLAT_NAME).open("xb", buffering=0) as target:
        encode_dynamic(chain, PipeSink(target), world=world)
    return chain.size_bytes


def _refuse(message: str) -> Invalid:
    return Invalid(f"This is no sound tarball of VHDs: {message}.", kind="VhdInvalid")


def _bound_ourselves() -> None:
    # Libraries have mapped some by now, the more the more processors there are.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, mapped + ADDRESS_SPACE_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_FSIZE, MEMBER_BYTES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))


def main(arguments: list[str]) -> int:
    """Do what the command line says; give the exit code."""
    _bound_ourselves()
    try:
        match arguments:
            case ["inspect"]:
                with open(0, "rb", buffering=0, closefd=False) as stream:
                    size = inspect_tarball(stream)
            case ["flatten", tarball, directory]:
                size = flatten(Path(tarball), Path(directory))
            case _:
                sys.stderr.write("inspect, or flatten TARBALL DIRECTORY\n")
                return 2
    except XenithError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(f"{size}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
