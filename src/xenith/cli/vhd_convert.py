"""``xenith vhd convert``, ``diff``, ``pack`` and ``unpack``: disks from one form into another.

A chain is read as the one disk that it is. What is written is there under its name when it is
whole, or not at all; ``-`` is the standard input or output. What cannot be read or written as a
stream goes by way of a raw file with holes, beside the target.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from xenith.cli.vhd_paths import repository, size_in_bytes
from xenith.core.clock import SystemClock
from xenith.core.errors import Conflict, Invalid, NotFound, Unavailable
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.vhd.chain import DEPTH_MAX, open_chain
from xenith.vhd.create import NEW_SUFFIX, new_file
from xenith.vhd.decoder import decode
from xenith.vhd.delta import encode_change
from xenith.vhd.disk import Disk, PipeDisk, RawDisk
from xenith.vhd.encoder import encode_dynamic, encode_fixed, encode_raw
from xenith.vhd.files import Bytes, Directory
from xenith.vhd.pipe import BlankFile, PipeSink, Sink
from xenith.vhd.tarball import unpack_tarball, write_tarball

Format = Literal["raw", "vhd", "vhd-fixed", "qcow2"]
_SUFFIXES: dict[str, Format] = {".raw": "raw", ".img": "raw", ".vhd": "vhd", ".qcow2": "qcow2"}
_STREAM = "-"
#: A path, or - for the stream.
Place = Annotated[str, Parameter(allow_leading_hyphen=True)]
#: What gzip itself does unless told.
_GZIP_LEVEL = 6


def convert(
    source: Place,
    target: Place,
    *,
    from_: Annotated[
        Format | None, Parameter(name="--from", help="What SOURCE is; or by its suffix.")
    ] = None,
    to: Annotated[Format | None, Parameter(help="What to make; or by TARGET's suffix.")] = None,
    size: Annotated[str, Parameter(help="Of a raw disk from a pipe, as in 20G.")] = "",
) -> None:
    """Make a disk in another format: raw, VHD, fixed VHD or qcow2; a chain becomes one file.

    SOURCE and TARGET may be - for raw and VHD.
    """
    given, wanted = from_ or _format(source), to or _format(target)
    place = tempfile.gettempdir() if target == _STREAM else str(Path(target).absolute().parent)
    if target != _STREAM and Path(target).exists():
        raise Conflict(f"{target} exists already.")
    with tempfile.TemporaryDirectory(prefix=".xenith-vhd-", dir=place) as made:
        spare = Path(made)
        if source == _STREAM and wanted == "raw" and given in {"vhd", "vhd-fixed"}:
            with _standard_input() as stream, _sink(target) as sink:
                decode(stream, sink)
            return
        with _disk(source, given, size, spare) as disk:
            _write(disk, target, wanted, spare)


def diff(base: Path, leaf: Path, target: Place = _STREAM) -> None:
    """Write what makes of the disk BASE the disk LEAF, as a differencing VHD that stands on BASE.

    Of snapshots of one chain only what changed is read. TARGET is a file, or - for the output.
    """
    with (
        repository(leaf) as files,
        repository(base) as below,
        contextlib.closing(open_chain(files, leaf.name)) as ours,
        contextlib.closing(open_chain(below, base.name)) as theirs,
        _sink(target) as sink,
    ):
        encode_change(ours, theirs, sink, world=_world())


def pack(
    leaf: Path,
    target: Place,
    *,
    gzip: Annotated[
        int | None, Parameter(help="1 to 9; 0 for none. Else TARGET's suffix .gz or .tgz tells.")
    ] = None,
) -> None:
    """Put a chain into a tarball, as images are: 0.vhd the leaf, 1.vhd its parent, and so on."""
    level = gzip if gzip is not None else _GZIP_LEVEL * target.endswith((".gz", ".tgz"))
    if not 0 <= level <= 9:
        raise Invalid(f"{level} is no level of gzip: 1 to 9, or 0.")
    with repository(leaf) as files, contextlib.closing(open_chain(files, leaf.name)) as chain:
        if target == _STREAM:
            with _standard_output() as stream:
                write_tarball(chain, stream, gzip_level=level or None)
            return
        path = Path(target)
        with repository(path) as others, new_file(others, path.name) as file:
            out = _Appended(BlankFile(file))
            write_tarball(chain, out, gzip_level=level or None)
            file.truncate(out.at)


def unpack(source: Place, directory: Path) -> None:
    """Take a tarball of VHDs apart into a new directory; its leaf is 0.vhd there.

    What it holds is checked, and linked by its numbers, before the directory is there.
    """
    if directory.exists():
        raise Conflict(f"{directory} exists already: give the name of one to make.")
    names = [f"{number}.vhd" for number in range(DEPTH_MAX)]
    with _staged(directory, names) as staging:
        files = Directory(staging)
        with contextlib.closing(files), _opened(source) as stream:
            unpack_tarball(stream, files, names, clock=SystemClock())
            files.sync()


@contextlib.contextmanager
def _staged(directory: Path, names: list[str]) -> Iterator[Path]:
    """Give an empty directory that gets its name when the block ends; it may hold these files.

    What a run that was killed left there goes first; one that lives has it locked.

    Raises:
        Conflict: another is at it, or there is something that no run has left.
    """
    staging = Path(f"{directory}{NEW_SUFFIX}")
    with contextlib.suppress(FileExistsError):
        staging.mkdir()
    try:
        held = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Conflict(f"{staging} is in the way: {error.strerror}.") from error
    try:
        _empty(held, staging, {*names, *(name + NEW_SUFFIX for name in names)})
        try:
            yield staging
            staging.rename(directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    finally:
        os.close(held)


def _empty(held: int, staging: Path, names: set[str]) -> None:
    """Lock a directory and remove its files, if all are of these names."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had the lock before may have renamed or removed it.
        is_there = os.path.samestat(os.fstat(held), staging.lstat())
    except (BlockingIOError, FileNotFoundError):
        is_there = False
    if not is_there:
        raise Conflict(f"Another is writing to {staging}.")
    found = os.listdir(held)
    if not names.issuperset(found):
        raise Conflict(f"{staging} holds what no unpack has left: remove it or name another.")
    for name in found:
        os.unlink(name, dir_fd=held)


class _Appended:
    """A new file as what can be written once; zeros in it are holes."""

    def __init__(self, sink: BlankFile) -> None:
        self._sink = sink
        self.at = 0

    def write(self, data: Bytes, /) -> int:
        """Write all of the data behind what was."""
        self._sink.write(self.at, data)
        self.at += len(data)
        return len(data)


def _format(path: str) -> Format:
    found = _SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        known = ", ".join(_SUFFIXES)
        raise Invalid(f"{path} tells no format by its suffix ({known}): give --from or --to.")
    return found


@contextlib.contextmanager
def _disk(source: str, given: Format, size: str, spare: Path) -> Iterator[Disk]:
    """Open what is to be read, of any format."""
    path = Path(source).absolute()
    if source != _STREAM and given in {"vhd", "vhd-fixed"}:
        with repository(path) as files, contextlib.closing(open_chain(files, path.name)) as chain:
            yield chain
        return
    if given == "raw" and (source != _STREAM or stat.S_ISREG(os.fstat(0).st_mode)):
        with _opened(source) as file:
            yield RawDisk(file.fileno())
        return
    if given == "raw":
        if not size:
            raise Invalid("A raw disk from a pipe does not tell its size: give --size.")
        with _standard_input() as stream:
            yield PipeDisk(stream, size_bytes=size_in_bytes(size))
        return
    raw = spare / "source.raw"
    if given == "qcow2":
        _read_qcow2(source, path, raw)
    else:
        with _standard_input() as stream, _sink(str(raw)) as sink:
            decode(stream, sink)
    with raw.open("rb", buffering=0) as file:
        yield RawDisk(file.fileno())


def _write(disk: Disk, target: str, wanted: Format, spare: Path) -> None:
    if wanted == "qcow2":
        _write_qcow2(disk, target, spare)
        return
    with _sink(target) as sink:
        if wanted == "raw":
            encode_raw(disk, sink)
        elif wanted == "vhd":
            encode_dynamic(disk, sink, world=_world())
        else:
            encode_fixed(disk, sink, world=_world())


def _read_qcow2(source: str, path: Path, raw: Path) -> None:
    from xenith.driver.qcow2 import convert_to_raw  # noqa: PLC0415 - only this form pays for it

    if source == _STREAM:
        raise Invalid("A qcow2 image is not read from a pipe: save it as a file.")
    if not path.exists():
        raise NotFound(f"{source} is not there.")
    asyncio.run(convert_to_raw(path, raw))


def _write_qcow2(disk: Disk, target: str, spare: Path) -> None:
    if target == _STREAM:
        raise Invalid("A qcow2 image is not written into a pipe: give a file.")
    program = shutil.which("qemu-img")
    if program is None:
        raise Unavailable("qcow2 images need qemu-img (package qemu-utils) on this machine")
    raw, made = spare / "target.raw", spare / "target.qcow2"
    with _sink(str(raw)) as sink:
        encode_raw(disk, sink)
    command = [program, "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - no shell, our own names
    if done.returncode:
        raise Unavailable(f"qemu-img: {done.stderr.decode('utf-8', 'replace').strip()[-200:]}")
    made.rename(target)


@contextlib.contextmanager
def _sink(target: str) -> Iterator[Sink]:
    if target == _STREAM:
        with _standard_output() as stream:
            yield PipeSink(stream)
        return
    path = Path(target).absolute()
    with repository(path) as files, new_file(files, path.name) as file:
        yield BlankFile(file)


def _opened(source: str) -> FileIO:
    return _standard_input() if source == _STREAM else FileIO(source)


def _standard_input() -> FileIO:
    return FileIO(0, closefd=False)


def _standard_output() -> FileIO:
    if sys.stdout.isatty():
        raise Invalid("A disk is not for a terminal: give a file, or > to one.")
    return FileIO(1, "w", closefd=False)


def _world() -> World:
    return World(clock=SystemClock(), ids=Ids())
