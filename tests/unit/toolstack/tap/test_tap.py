"""The process that serves a domain's chains: its disks, its NBD, its orders; QEMU's tools ask."""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import XenithError
from xenith.core.ids import Ids, derive_uuid
from xenith.core.world import World
from xenith.toolstack.storage.repository import FileRepository
from xenith.toolstack.tap.disk import TapDisk
from xenith.toolstack.tap.nbd import ProtocolError, serve

MIB = 1 << 20
A, B = derive_uuid("a"), derive_uuid("b")


@pytest.fixture
def sr(tmp_path):
    (tmp_path / "sr").mkdir()
    world = World(clock=ManualClock(), ids=Ids(1))
    with FileRepository(tmp_path / "sr", world=world, reserve_bytes=0) as repository:
        repository.create(A, 8 * MIB)
        yield repository


@pytest.fixture
def path(tmp_path, sr):
    return tmp_path / "sr" / f"{A}.vhd"


def read(disk, offset, length):
    view = memoryview(bytearray(length))
    disk.read_into(offset, view)
    return bytes(view)


def test_zeros_take_no_room_where_nothing_is_and_hide_what_there_was(path):
    disk = TapDisk(path, is_read_only=False)
    before = path.stat().st_size
    disk.zero(0, 8 * MIB)
    disk.flush()
    assert path.stat().st_size == before
    disk.write(MIB, memoryview(b"x" * 4096))
    disk.zero(0, 8 * MIB)
    assert read(disk, MIB, 4096) == bytes(4096)
    disk.close()


def test_a_disk_that_is_held_can_be_snapshot_and_goes_on_as_another_file(sr, path):
    disk = TapDisk(path, is_read_only=False)
    disk.write(0, memoryview(b"1" * 512))
    disk.hold()
    disk.hold()
    waiting = threading.Thread(target=disk.write, args=(512, memoryview(b"2" * 512)))
    waiting.start()
    sr.snapshot(A, B)
    disk.go_on()
    waiting.join()
    assert read(disk, 0, 1024) == b"1" * 512 + b"2" * 512
    disk.close()
    assert b"".join(sr.export_raw(B))[:1024] == b"1" * 512 + bytes(512)
    assert b"".join(sr.export_raw(A))[:1024] == b"1" * 512 + b"2" * 512


def test_one_that_reads_lets_others_write_and_writes_nothing_itself(sr, path):
    disk = TapDisk(path, is_read_only=True)
    other = TapDisk(path, is_read_only=False)
    with pytest.raises(XenithError):
        TapDisk(path, is_read_only=False)
    other.close()
    disk.close()


# -- NBD, byte by byte


class Client:
    """A client of one disk, which a thread serves."""

    def __init__(self, disk):
        self.socket, other = socket.socketpair()
        self.failure = None
        self.thread = threading.Thread(target=self._serve, args=(other, disk))
        self.thread.start()

    def _serve(self, connection, disk):
        try:
            with connection:
                serve(connection, disk)
        except (OSError, ProtocolError) as error:
            self.failure = error

    def take(self, length):
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            assert piece, "the server hung up"
            data += piece
        return data

    def begin(self):
        assert self.take(18)[:16] == b"NBDMAGICIHAVEOPT"
        self.socket.sendall(struct.pack(">I", 3))
        self.socket.sendall(struct.pack(">8sIII", b"IHAVEOPT", 7, 6, 0) + b"\0\0")
        size = None
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            data = self.take(length)
            if kind == 1:
                return size
            if kind == 3 and data[:2] == b"\0\0":
                size = struct.unpack(">QH", data[2:])

    def ask(self, kind, offset=0, length=0, data=b"", flags=0):
        head = struct.pack(">IHHQQI", 0x25609513, flags, kind, 77, offset, length or len(data))
        self.socket.sendall(head + data)
        magic, error, handle = struct.unpack(">IIQ", self.take(16))
        assert (magic, handle) == (0x67446698, 77)
        return error

    def end(self):
        self.socket.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.failure


@pytest.fixture
def disk(path):
    disk = TapDisk(path, is_read_only=False)
    yield disk
    disk.close()


def test_requests_are_answered_and_what_is_wrong_is_refused_without_an_end(disk):
    client = Client(disk)
    size, flags = client.begin()
    assert size == 8 * MIB
    assert not flags & 2
    assert client.ask(1, 4096, data=b"w" * 4096, flags=1) == 0
    assert client.ask(0, 4096, 4096) == 0
    assert client.take(4096) == b"w" * 4096
    assert client.ask(0, 8 * MIB, 512) == 22, "outside of the disk"
    assert client.ask(1, 100, data=b"w" * 10) == 22, "no sectors"
    assert client.ask(6, 4096, 4096) == 0
    assert client.ask(3) == 0
    assert client.ask(0, 4096, 512) == 0
    assert client.take(512) == bytes(512)
    assert isinstance(client.end(), ConnectionResetError)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 3) + b"GETOPT" + bytes(10),
        struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 1 << 31),
    ],
    ids=["magic", "length"],
)
def test_nonsense_ends_the_connection(disk, data):
    client = Client(disk)
    client.take(18)
    client.socket.sendall(data)
    client.thread.join(10)
    assert isinstance(client.end(), ProtocolError)


def test_a_request_of_too_many_bytes_ends_the_connection(disk):
    client = Client(disk)
    client.begin()
    client.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 1 << 31))
    client.thread.join(10)
    assert isinstance(client.end(), ProtocolError)


# -- the process


@pytest.fixture
async def tap(path, tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "xenith.toolstack.tap", path, "rw", "disk1.nbd", cwd=tmp_path
    )
    while not (tmp_path / "tap.sock").exists():
        assert process.returncode is None
        await asyncio.sleep(0.01)
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.mark.slow
async def test_it_ends_when_its_client_has_and_all_is_on_the_disk(tap, tmp_path, sr):
    client = socket.socket(socket.AF_UNIX)
    here = os.open(tmp_path, os.O_PATH)
    client.connect(f"/proc/self/fd/{here}/disk1.nbd")
    os.close(here)
    assert (await asyncio.to_thread(client.recv, 18))[:8] == b"NBDMAGIC"
    client.sendall(struct.pack(">I", 3) + struct.pack(">8sII", b"IHAVEOPT", 1, 0))
    await asyncio.to_thread(client.recv, 10)
    client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 5, 0, 512) + b"z" * 512)
    await asyncio.to_thread(client.recv, 16)
    client.close()
    assert await tap.wait() == 0
    assert b"".join(sr.export_raw(A))[:512] == b"z" * 512


@pytest.mark.slow
async def test_it_obeys_one_after_the_other_and_says_what_it_does_not_understand(tap, tmp_path):
    here = os.open(tmp_path, os.O_PATH)
    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{here}/tap.sock")
    os.close(here)
    orders = ["1 hold disk1.nbd", "2 go disk1.nbd", "3 hold ../other", "4 ionice disk1.nbd 2 7", ""]
    writer.write("\n".join([*orders, "5 quit\n"]).encode())
    answers = (await reader.read()).decode().splitlines()
    assert answers[:2] == ["1 done", "2 done"]
    assert all("is not understood" in answer for answer in answers[2:5])
    assert await tap.wait() == 0
    writer.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
async def test_qemu_reads_and_writes_through_it(tap, tmp_path, sr):
    source = tmp_path / "source.raw"
    source.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB))
    target = "driver=nbd,server.type=unix,server.path=disk1.nbd"
    command = ["qemu-img", "convert", "-n", "-f", "raw", source.name]
    await asyncio.to_thread(
        subprocess.run, [*command, "--target-image-opts", target], check=True, cwd=tmp_path
    )
    assert await tap.wait() == 0
    assert b"".join(sr.export_raw(A)) == source.read_bytes()
