"""VHD streams are read once, whole or not at all, whatever order their blocks are in."""

import io
import os
import random
import shutil
import struct
import subprocess
import threading
from dataclasses import replace

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Exhausted, Invalid
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd import decoder
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_dynamic, create_fixed
from xenith.vhd.decoder import Decoder, apply, decode
from xenith.vhd.encoder import encode_dynamic, encode_fixed, encode_raw, new_footer
from xenith.vhd.files import Directory
from xenith.vhd.footer import FIXED, decode_footer
from xenith.vhd.header import decode_header
from xenith.vhd.pipe import BlankFile, PipeSink

SIZE = 9 * MIB


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path)
    yield directory
    directory.close()


def written(files, world, *, order=(0, 2, 3), create=create_dynamic):
    """Make a disk whose blocks were written in an order, one of them in part; give its bytes."""
    create(files, "a.vhd", size_bytes=SIZE, world=world)
    chance, flat = random.Random(2), bytearray(SIZE)
    chain = open_chain(files, "a.vhd", writable=True)
    for block in order:
        at = block * 2 * MIB + 4096
        data = chance.randbytes(MIB)
        chain.write(at, data)
        chain.flush()
        flat[at : at + MIB] = data
    chain.close()
    return bytes(flat)


class Unseekable(io.RawIOBase):
    """A stream that gives bytes in pieces of its own choosing, as sockets do."""

    def __init__(self, data):
        self.data, self.at, self.chance = data, 0, random.Random(9)

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.data[self.at : self.at + self.chance.randrange(1, 70_000)][: len(buffer)]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)


def decode_to_pipe(data):
    out = io.BytesIO()
    decode(Unseekable(data), PipeSink(out))
    return out.getvalue()


def decode_to_file(files, data, name="out.raw"):
    file = files.open(name, create=True)
    decode(Unseekable(data), BlankFile(file))
    file.close()
    return name


@pytest.mark.parametrize("create", [create_dynamic, create_fixed])
def test_a_vhd_becomes_raw_in_pipes_and_in_files(files, world, tmp_path, create):
    flat = written(files, world, create=create)
    data = (tmp_path / "a.vhd").read_bytes()
    assert decode_to_pipe(data) == flat
    decode_to_file(files, data)
    assert (tmp_path / "out.raw").read_bytes() == flat
    assert (tmp_path / "out.raw").stat().st_blocks * 512 < 4 * MIB


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_what_qemu_writes_is_read(files, tmp_path, kind):
    assert shutil.which("qemu-img"), "qemu-img is not installed: apt-get install qemu-utils"
    flat = random.Random(4).randbytes(MIB) + bytes(5 * MIB) + b"end".ljust(512)
    (tmp_path / "flat.raw").write_bytes(flat)
    options = ["-O", "vpc", "-o", f"subformat={kind},force_size=on"]
    paths = [tmp_path / "flat.raw", tmp_path / "q.vhd"]
    subprocess.run(["qemu-img", "convert", *options, *paths], check=True)
    assert decode_to_pipe((tmp_path / "q.vhd").read_bytes()) == flat


def test_blocks_out_of_order_wait_for_their_turn_up_to_a_limit(files, world, tmp_path, monkeypatch):
    flat = written(files, world, order=(3, 0, 2, 1))
    data = (tmp_path / "a.vhd").read_bytes()
    assert decode_to_pipe(data) == flat
    decode_to_file(files, data)
    assert (tmp_path / "out.raw").read_bytes() == flat
    # Three blocks are never held at once: 3 waits, then 2 with it, and 1 lets both go.
    monkeypatch.setattr(decoder, "HELD_BYTES_MAX", 4 * MIB)
    assert decode_to_pipe(data) == flat
    monkeypatch.setattr(decoder, "HELD_BYTES_MAX", 4 * MIB - 1)
    out = io.BytesIO()
    with pytest.raises(Invalid, match=f"a pipe waits for {4 * MIB - 1} bytes; write it to a file"):
        decode(io.BytesIO(data), PipeSink(out))
    assert not out.getvalue(), "refused before the first byte"


class SlowPipe(PipeSink):
    """A sink that is still busy when the next block has long been read."""

    def write(self, offset, data):
        before = bytes(data)
        busy.wait(0.02)
        assert bytes(data) == before, "its bytes were changed while it wrote them"
        super().write(offset, before)


busy = threading.Event()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 2, 1), (1, 3, 2, 0), (3, 2, 1, 0)])
def test_what_is_being_written_is_not_read_over(files, world, tmp_path, order):
    flat = written(files, world, order=order)
    out = io.BytesIO()
    decode((tmp_path / "a.vhd").open("rb", buffering=0), SlowPipe(out))
    assert out.getvalue() == flat
    chain = open_chain(files, "a.vhd")
    again = io.BytesIO()
    encode_raw(chain, SlowPipe(again))
    assert again.getvalue() == flat
    chain.close()


def test_blocks_of_many_chunks_that_reach_past_the_end_are_read(files, world, tmp_path):
    create_dynamic(files, "a.vhd", size_bytes=SIZE, world=world, block_bytes=8 * MIB)
    chain = open_chain(files, "a.vhd", writable=True)
    flat = bytearray(SIZE)
    for at in (8 * MIB + 512, 3 * MIB, 0, 6 * MIB - 4096):
        chain.write(at, b"data" * 2048)
        flat[at : at + 8192] = b"data" * 2048
    chain.flush()
    chain.close()
    out = io.BytesIO()
    decode((tmp_path / "a.vhd").open("rb", buffering=0), SlowPipe(out))
    assert out.getvalue() == flat


def test_a_sink_that_fails_ends_the_work_with_its_error(files, world, tmp_path):
    written(files, world)

    class Full(PipeSink):
        def write(self, offset, data):
            raise Exhausted("no room")

    data = (tmp_path / "a.vhd").read_bytes()
    with pytest.raises(Exhausted, match="no room"):
        decode(io.BytesIO(data), Full(io.BytesIO()))


def test_each_truncation_is_found(files, world, tmp_path):
    written(files, world, order=(0,))
    data = (tmp_path / "a.vhd").read_bytes()
    for length in [0, 1, 511, 512, 600, 1536, 1600, 4000, MIB, len(data) - 513, len(data) - 512]:
        with pytest.raises(Invalid) as caught:
            decode_to_pipe(data[:length])
        assert caught.value.kind == "VhdInvalid", length
    with pytest.raises(Invalid, match="at its end"):
        decode_to_pipe(data[:-1024] + b"HTTP/1.1 500 Internal Error".ljust(512))


def test_a_fixed_disk_that_is_cut_off_or_of_another_length_is_refused(files, world, tmp_path):
    written(files, world, create=create_fixed)
    data = (tmp_path / "a.vhd").read_bytes()
    for broken in (data[:-1], data[:-512], data[512:], bytes(512) + data, b"", data[-512:]):
        with pytest.raises(Invalid) as caught:
            decode_to_pipe(broken)
        assert caught.value.kind == "VhdInvalid"


def test_a_guest_that_keeps_a_fixed_footer_in_its_first_sector_is_read(world):
    footer = new_footer(FIXED, 1024, world).encode()
    assert decode_to_pipe(footer + bytes(512) + footer) == footer + bytes(512)


def test_two_footers_that_differ_are_refused(files, world, tmp_path):
    written(files, world)
    data = (tmp_path / "a.vhd").read_bytes()
    other = replace(decode_footer(data[-512:]), size_bytes=SIZE - 512).encode()
    with pytest.raises(Invalid, match="not like the copy"):
        decode_to_pipe(data[:-512] + other)


def test_an_old_footer_without_its_last_byte_is_read(files, world, tmp_path):
    flat = written(files, world)
    data = (tmp_path / "a.vhd").read_bytes()
    assert decode_to_pipe(data[:-1]) == flat


def test_a_disk_larger_than_what_is_taken_is_refused_before_it_is_read(files, world, tmp_path):
    written(files, world)
    data = (tmp_path / "a.vhd").read_bytes()
    with pytest.raises(Invalid, match=f"{SIZE} bytes, and {SIZE - 512} are taken"):
        Decoder(io.BytesIO(data[:512]), size_bytes_max=SIZE - 512)
    (tmp_path / "a.vhd").unlink()
    written(files, world, create=create_fixed)
    with pytest.raises(Invalid, match="are taken"):
        decode(
            io.BytesIO((tmp_path / "a.vhd").read_bytes()),
            PipeSink(io.BytesIO()),
            size_bytes_max=4 * MIB,
        )


def test_a_table_behind_its_blocks_is_for_files_only(files, world, tmp_path):
    written(files, world)
    data = bytearray((tmp_path / "a.vhd").read_bytes())
    header = decode_header(bytes(data[512:1536]))
    table = data[header.table_offset : header.table_offset + 512]
    data[512:1536] = replace(header, table_offset=len(data) - 512).encode()
    with pytest.raises(Invalid, match="save it as a file"):
        decode_to_pipe(bytes(data[:-512] + table + data[-512:]))


def test_a_stream_that_never_ends_is_cut_short(files, world, tmp_path, monkeypatch):
    written(files, world)
    data = (tmp_path / "a.vhd").read_bytes()
    monkeypatch.setattr(decoder, "SPARE_BYTES_MAX", 4 * MIB)

    class Endless(io.RawIOBase):
        def __init__(self):
            self.head, self.given = io.BytesIO(data), 0

        def readinto(self, buffer):
            count = self.head.readinto(buffer) or len(buffer)
            self.given += count
            return count

    endless = Endless()
    with pytest.raises(Invalid, match="nothing names"):
        decode(endless, PipeSink(io.BytesIO()))
    assert endless.given < len(data) + 16 * MIB


def test_bits_that_tapdisk_wrote_the_other_way_round_are_read(files, world, tmp_path):
    flat = written(files, world)
    data = bytearray((tmp_path / "a.vhd").read_bytes())
    header = decode_header(bytes(data[512:1536]))
    for number in range(header.entries):
        (sector,) = struct.unpack_from(">I", data, header.table_offset + number * 4)
        if sector != 0xFFFFFFFF:
            bits = data[sector * 512 : sector * 512 + 512]
            data[sector * 512 : sector * 512 + 512] = bytes(
                int(f"{byte:08b}"[::-1], 2) for byte in bits
            )
    footer = replace(decode_footer(bytes(data[-512:])), creator_version=1).encode()
    data[:512] = data[-512:] = footer
    assert decode_to_pipe(bytes(data)) == flat


def test_a_stream_replaces_the_disk_that_it_is_applied_to(files, world, tmp_path):
    flat = written(files, world)
    data = (tmp_path / "a.vhd").read_bytes()
    create_dynamic(files, "b.vhd", size_bytes=SIZE, world=world)
    chain = open_chain(files, "b.vhd", writable=True)
    chain.write(2 * MIB, b"old" * 512 * 1024)
    footer = apply(Unseekable(data), chain)
    chain.flush()
    assert footer.size_bytes == SIZE
    assert chain.read(0, SIZE) == flat
    chain.close()


def test_a_stream_onto_a_blank_disk_takes_room_for_its_blocks_only(files, world, tmp_path):
    flat = written(files, world)
    data = (tmp_path / "a.vhd").read_bytes()
    create_dynamic(files, "b.vhd", size_bytes=SIZE + MIB, world=world)
    chain = open_chain(files, "b.vhd", writable=True)
    apply(Unseekable(data), chain, is_blank=True)
    chain.flush()
    assert chain.read(0, SIZE) == flat
    assert chain.leaf.blocks() == [0, 2, 3]
    create_dynamic(files, "c.vhd", size_bytes=SIZE - 512, world=world)
    small = open_chain(files, "c.vhd", writable=True)
    with pytest.raises(Invalid, match="are taken"):
        apply(io.BytesIO(data), small)
    small.close()
    chain.close()


@pytest.mark.parametrize("encode", [encode_dynamic, encode_fixed])
def test_what_goes_through_an_operating_systems_pipe_arrives(files, world, tmp_path, encode):
    flat = written(files, world)
    chain = open_chain(files, "a.vhd")
    reads, writes = (os.fdopen(end, mode, buffering=0) for end, mode in ends(os.pipe()))
    out = io.BytesIO()

    def send():
        with writes:
            encode(chain, PipeSink(writes), world=world)

    sender = threading.Thread(target=send)
    sender.start()
    with reads:
        decode(reads, PipeSink(out))
    sender.join()
    chain.close()
    assert out.getvalue() == flat


def ends(pipe):
    return zip(pipe, ("rb", "wb"), strict=True)
