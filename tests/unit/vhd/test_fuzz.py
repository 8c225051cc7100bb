"""Damaged and hostile streams give one clear error, in little memory, and open nothing."""

import builtins
import io
import os
import random
import struct
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic
from xenith.vhd.decoder import Decoder, apply, decode
from xenith.vhd.delta import encode_delta
from xenith.vhd.encoder import encode_fixed
from xenith.vhd.files import Directory
from xenith.vhd.footer import checksum, decode_footer
from xenith.vhd.header import decode_header
from xenith.vhd.pipe import PipeSink
from xenith.vhd.tarball import read_tarball, write_tarball

pytestmark = pytest.mark.slow

SIZE = 128 * 1024
BLOCK = 16 * 1024


@cache
def valid():
    """Make one valid stream of each kind, small."""
    world = World(clock=ManualClock(), ids=Ids(seed=1))
    with tempfile.TemporaryDirectory() as place:
        files = Directory(place)
        create_dynamic(files, "base.vhd", size_bytes=SIZE, block_bytes=BLOCK, world=world)
        create_differencing(files, "leaf.vhd", parent="base.vhd", world=world)
        for name, blocks in (("base.vhd", (5, 0, 2)), ("leaf.vhd", (1, 2))):
            chain = open_chain(files, name, writable=True)
            for block in blocks:
                chain.write(block * BLOCK + 512, random.Random(block).randbytes(2048))
                chain.flush()
            chain.close()
        leaf, base = open_chain(files, "leaf.vhd"), open_chain(files, "base.vhd")
        fixed, delta, tarball, packed = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
        encode_fixed(leaf, PipeSink(fixed), world=world)
        encode_delta(leaf, base, PipeSink(delta), world=world)
        write_tarball(leaf, tarball)
        write_tarball(leaf, packed, gzip_level=1)
        leaf.close()
        base.close()
        files.close()
        return {
            "dynamic": (Path(place) / "base.vhd").read_bytes(),
            "differencing": (Path(place) / "leaf.vhd").read_bytes(),
            "fixed": fixed.getvalue(),
            "delta": delta.getvalue(),
            "tarball": tarball.getvalue(),
            "packed": packed.getvalue(),
        }


STREAMS = ["dynamic", "differencing", "fixed", "delta"]


class Blank:
    """A disk that forgets, and holds its writer to its size."""

    size_bytes = SIZE

    def write(self, offset, data):
        assert offset >= 0
        assert offset + len(data) <= self.size_bytes
        assert (offset | len(data)) % 512 == 0


@contextmanager
def nothing_is_opened():
    def refuse(*arguments, **_):
        raise AssertionError(f"{arguments} was opened")

    with mock.patch.object(builtins, "open", refuse), mock.patch.object(os, "open", refuse):
        yield


def survive(read):
    """Tell whether something can be read; any error but the one is a fault of ours."""
    with nothing_is_opened():
        try:
            read()
        except Invalid as error:
            found = error
        else:
            return True
    assert found.kind == "VhdInvalid", found
    assert len(found.message) < 1000
    return False


def read_stream(data):
    survive(lambda: decode(io.BytesIO(data), PipeSink(io.BytesIO()), size_bytes_max=4 * MIB))
    return survive(lambda: apply(io.BytesIO(data), Blank()))


def read_tar(data):
    def read():
        for member in read_tarball(io.BytesIO(data), bytes_max=MIB):
            while member.readinto(memoryview(bytearray(4096))):
                pass

    return survive(read)


def test_what_is_not_damaged_is_read():
    assert all(read_stream(valid()[kind]) for kind in STREAMS)
    assert all(read_tar(valid()[kind]) for kind in ("tarball", "packed"))


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=24),
            st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7]),
        ),
    ),
    max_size=6,
)
CUT = st.one_of(st.just(1.0), st.floats(0, 1))


def edited(data, edits, cut, *, within=None):
    changed, span = bytearray(data), within or len(data)
    for at, patch in edits:
        begin = int(at * (span - 1))
        changed[begin : begin + len(patch)] = patch
    return bytes(changed[: int(cut * len(changed))])


@given(st.binary(max_size=4096))
@settings(max_examples=60, deadline=None)
def test_bytes_of_no_meaning(data):
    read_stream(data)
    read_stream(b"conectix" + data)
    read_tar(data)
    read_tar(b"\x1f\x8b\x08" + data)


@given(st.sampled_from(STREAMS), EDITS, CUT)
@settings(max_examples=150, deadline=None)
def test_a_stream_that_was_damaged_anywhere(kind, edits, cut):
    data = valid()[kind]
    read_stream(edited(data, edits, cut))
    read_stream(edited(data, edits, cut, within=4096))


def signed(data, *, at, sum_at, length):
    """Put the checksum right, so that what it covers is believed."""
    part = bytearray(data[at : at + length])
    struct.pack_into(">I", part, sum_at, checksum(part, sum_at))
    return data[:at] + bytes(part) + data[at + length :]


@given(st.sampled_from(["dynamic", "differencing", "delta"]), EDITS, EDITS, EDITS)
@settings(max_examples=150, deadline=None)
def test_a_stream_whose_checksums_were_put_right_again(kind, footer, header, table):
    data = valid()[kind]
    parts = [edited(data[:512], footer, 1), edited(data[512:1536], header, 1)]
    parts += [edited(data[1536:2048], table, 1), data[2048:-512]]
    changed = signed(b"".join(parts), at=0, sum_at=64, length=512)
    changed = signed(changed, at=512, sum_at=36, length=1024)
    read_stream(changed + changed[:512])


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 400), min_size=8, max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_table_that_names_any_places(places):
    data = bytearray(valid()["dynamic"])
    struct.pack_into(">8I", data, decode_header(bytes(data[512:1536])).table_offset, *places)
    read_stream(bytes(data))


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([512, 4096, 65536, BLOCK, 2 * MIB, 256 * MIB]),
)
@settings(max_examples=100, deadline=None)
def test_sizes_that_no_disk_has(table_offset, entries, block_bytes):
    data = valid()["dynamic"]
    head = bytearray(data[512:1536])
    struct.pack_into(">Q", head, 16, table_offset)
    struct.pack_into(">II", head, 28, entries, block_bytes)
    read_stream(signed(data[:512] + bytes(head) + data[1536:], at=512, sum_at=36, length=1024))


def test_the_largest_table_that_is_believed_is_bounded():
    """Tables of 16 MiB are read where a stream is as long, and no other."""
    data = valid()["dynamic"]
    header = replace(decode_header(data[512:1536]), entries=4 * 1024 * 1024, block_bytes=4096)
    footer = replace(decode_footer(data[:512]), size_bytes=SIZE)
    read_stream(footer.encode() + header.encode() + b"\xff" * 4096)
    whole = footer.encode() + header.encode() + b"\xff" * (16 * MIB) + footer.encode()
    source = Decoder(io.BytesIO(whole))
    assert list(source.pieces()) == []


@given(st.sampled_from(["tarball", "packed"]), EDITS, CUT)
@settings(max_examples=150, deadline=None)
def test_a_tarball_that_was_damaged(kind, edits, cut):
    data = valid()[kind]
    read_tar(edited(data, edits, cut))
    read_tar(edited(data, edits, cut, within=512))


@given(EDITS)
@settings(max_examples=150, deadline=None)
def test_a_tarball_whose_records_were_put_right_again(edits):
    data = valid()["tarball"]
    record = bytearray(edited(data[:512], edits, 1))
    record[148:156] = b" " * 8
    record[148:156] = b"%06o\0 " % sum(record)
    read_tar(bytes(record) + data[512:])
