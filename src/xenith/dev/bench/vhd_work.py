"""What the bench of disks has us do: each function is one measured piece of work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.decoder import decode
from xenith.vhd.delta import encode_delta
from xenith.vhd.disk import RawDisk
from xenith.vhd.encoder import encode_dynamic, encode_raw
from xenith.vhd.files import Directory
from xenith.vhd.pipe import BlankFile, PipeSink


def raw_to_vhd(raw: Path, out: Path) -> None:
    """Make a dynamic VHD of a raw file."""
    with raw.open("rb", buffering=0) as file, _sink(out) as sink:
        encode_dynamic(RawDisk(file.fileno()), sink, world=World())


def raw_to_pipe(raw: Path) -> None:
    """Make a dynamic VHD stream of a raw file, and let nobody read it."""
    with raw.open("rb", buffering=0) as file, Path(os.devnull).open("wb", buffering=0) as out:
        encode_dynamic(RawDisk(file.fileno()), PipeSink(out), world=World())


def vhd_to_raw(vhd: Path, out: Path) -> None:
    """Make a raw file of a VHD."""
    with _repository(vhd.parent) as files, _sink(out) as sink:
        chain = open_chain(files, vhd.name)
        encode_raw(chain, sink)
        chain.close()


def vhd_stream_to_raw(vhd: Path, out: Path) -> None:
    """Make a raw file of a VHD that is read as a stream."""
    with vhd.open("rb", buffering=0) as stream, _sink(out) as sink:
        decode(stream, sink)


def flatten(directory: Path, leaf: str, out: Path) -> None:
    """Make one dynamic VHD of a chain."""
    with _repository(directory) as files, _sink(out) as sink:
        chain = open_chain(files, leaf)
        encode_dynamic(chain, sink, world=World())
        chain.close()


def delta(directory: Path, leaf: str, base: str, out: Path) -> None:
    """Make a differencing VHD of what differs between two disks."""
    with _repository(directory) as files, _sink(out) as sink:
        ours, theirs = open_chain(files, leaf), open_chain(files, base)
        encode_delta(ours, theirs, sink, world=World())
        ours.close()
        theirs.close()


@contextlib.contextmanager
def _repository(directory: Path) -> Iterator[Directory]:
    files = Directory(directory)
    try:
        yield files
    finally:
        files.close()


@contextlib.contextmanager
def _sink(out: Path) -> Iterator[BlankFile]:
    with _repository(out.parent) as files:
        file = files.open(out.name, create=True)
        try:
            yield BlankFile(file)
        finally:
            file.close()
