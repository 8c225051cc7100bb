"""Disks as files, made by the real qemu-img."""

import shutil
import struct
import subprocess

import pytest

from xenith.core.ids import derive_uuid
from xenith.toolstack.backends import BackendError
from xenith.toolstack.backends.qemu import chain
from xenith.toolstack.backends.qemu.disks import Disks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils"),
]
MIB = 1 << 20
A, B, C = (derive_uuid("disk", name) for name in "abc")


@pytest.fixture
def used():
    return set()


@pytest.fixture
def disks(tmp_path, used):
    disks = Disks(tmp_path / "disks", is_in_use=lambda vdi: vdi in used)
    disks.start()
    return disks


async def stream(data, size=100_000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(disks, vdi):
    """Read a disk's contents as a guest would."""
    file = disks.get(vdi)
    out = disks.directory.parent / "out.raw"
    command = ["qemu-img", "convert", "-f", file.format, "-O", "raw", file.path, out]
    subprocess.run(command, check=True)
    return out.read_bytes()


def vhd(tmp_path, data, *, subformat="dynamic"):
    raw, made = tmp_path / "in.raw", tmp_path / "in.vhd"
    raw.write_bytes(data)
    options = ["-o", f"subformat={subformat},force_size=on"]
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vpc", *options, raw, made]
    subprocess.run(command, check=True)
    return made.read_bytes()


def qcow2_on(backing, made):
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, made]
    subprocess.run(command, check=True)
    return made.read_bytes()


def sealed(footer, *, at, value, length=4):
    """Change a field of a footer and make its checksum right again."""
    changed = bytearray(footer)
    changed[at : at + length] = value.to_bytes(length, "big")
    changed[64:68] = bytes(4)
    changed[64:68] = struct.pack(">I", ~sum(changed) & 0xFFFFFFFF)
    return bytes(changed)


def names(disks):
    return sorted(path.name for path in disks.directory.iterdir())


async def test_a_disk_is_made_once_and_grows(disks):
    await disks.create(A, MIB + 1)
    await disks.create(A, 5 * MIB)
    assert disks.sizes() == {A: MIB + 512}
    await disks.resize(A, 2 * MIB)
    await disks.resize(A, 2 * MIB)
    assert disks.sizes() == {A: 2 * MIB}
    with pytest.raises(BackendError, match="VDI_TOO_SMALL"):
        await disks.resize(A, MIB)
    assert disks.used_bytes(A) < MIB


async def test_zeros_of_a_raw_stream_take_no_room(disks):
    data = bytes(8 * MIB) + b"end"
    assert await disks.fill(A, "raw", stream(data)) == 8 * MIB + 512
    assert disks.used_bytes(A) < MIB
    assert read(disks, A) == data.ljust(8 * MIB + 512, b"\0")


async def test_what_is_filled_into_a_larger_disk_leaves_its_size(disks):
    await disks.create(A, 4 * MIB)
    assert await disks.fill(A, "raw", stream(b"x" * MIB)) == 4 * MIB
    assert read(disks, A) == (b"x" * MIB).ljust(4 * MIB, b"\0")


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
async def test_a_vhd_comes_in_with_its_contents_and_exact_size(disks, tmp_path, subformat):
    # A size that no geometry of cylinders, heads and sectors gives.
    data = (b"first" + bytes(3 * MIB) + b"last").ljust(3 * MIB + 7 * 512, b"\0")
    made = vhd(tmp_path, data, subformat=subformat)
    assert await disks.fill(A, "vhd", stream(made)) == len(data)
    assert read(disks, A) == data
    assert len(names(disks)) == 1


async def test_a_stream_that_breaks_leaves_the_disk_as_it_was(disks):
    await disks.fill(A, "raw", stream(b"old" * 512))
    before = names(disks)

    async def broken():
        yield b"new"
        raise ConnectionResetError

    with pytest.raises((BackendError, ConnectionResetError)):
        await disks.fill(A, "raw", broken())
    assert names(disks) == before
    assert read(disks, A) == b"old" * 512


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: data[:-512], "no VHD footer"),
        (lambda data: b"", "no VHD footer"),
        (lambda data: data[:-1] + b"\1", "checksum"),
        (lambda data: data[:-512] + sealed(data[-512:], at=60, value=4), "differencing"),
        (lambda data: data[:-512] + sealed(data[-512:], at=60, value=9), "type 9"),
        (lambda data: data[:-512] + sealed(data[-512:], at=48, value=1, length=8), "1 bytes"),
        (lambda data: data[:-512] + sealed(data[-512:], at=48, value=1 << 60, length=8), "bytes"),
        (lambda data: sealed(data[:512], at=60, value=4) + data[512:], "differencing"),
        (lambda data: sealed(data[:512], at=48, value=MIB, length=8) + data[512:], "differ"),
        (lambda data: data[:-512] + sealed(data[-512:], at=60, value=2), "length"),
        # The footers are good; the table of blocks points behind the end.
        (lambda data: data[:1536] + b"\x7f" * 64 + data[1600:], "qemu-img"),
    ],
)
async def test_a_bad_vhd_is_refused_and_leaves_nothing(disks, tmp_path, spoil, why):
    good = vhd(tmp_path, b"x" * (2 * MIB))
    with pytest.raises(BackendError, match=why):
        await disks.fill(A, "vhd", stream(spoil(good)))
    assert names(disks) == []


async def test_a_format_that_nobody_named_is_refused(disks):
    with pytest.raises(BackendError, match="qcow2 is not taken"):
        await disks.fill(A, "qcow2", stream(b""))


async def test_another_formats_header_in_a_raw_disk_is_only_data(disks, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    data = qcow2_on(secret, tmp_path / "trap.qcow2")
    await disks.fill(A, "raw", stream(data))
    await disks.clone(B, A)
    await disks.resize(B, 4 * MIB)
    found = read(disks, B)
    assert found[: len(data)] == data
    assert b"secret" not in found[len(data) :]


async def test_a_clone_shares_its_parents_blocks_and_keeps_its_own_size(disks):
    await disks.fill(A, "raw", stream(b"parent" * 100_000))
    await disks.clone(B, A)
    await disks.clone(B, A)
    await disks.clone(C, B)
    await disks.resize(C, 4 * MIB)
    assert read(disks, C).startswith(b"parent" * 100_000)
    assert disks.used_bytes(C) < 600_000
    for parent in (A, B):
        assert disks.is_parent(disks.get(parent))
        with pytest.raises(BackendError, match="VDI_READONLY"):
            await disks.resize(parent, 8 * MIB)
    with pytest.raises(BackendError, match="VDI_MISSING"):
        await disks.clone(derive_uuid("new"), derive_uuid("none"))


async def test_a_destroyed_parent_goes_with_its_last_child(disks):
    await disks.fill(A, "raw", stream(b"parent" * 1000))
    await disks.clone(B, A)
    await disks.clone(C, B)
    await disks.destroy(A)
    await disks.destroy(B)
    await disks.destroy(B)
    assert list(disks.sizes()) == [C]
    assert read(disks, C).startswith(b"parent" * 1000)
    await disks.destroy(C)
    assert names(disks) == []


async def test_a_disk_filled_anew_does_not_change_under_its_clones(disks):
    await disks.fill(A, "raw", stream(b"old!" * 1024))
    await disks.clone(B, A)
    await disks.fill(A, "raw", stream(b"new!" * 1024))
    assert read(disks, A) == b"new!" * 1024
    assert read(disks, B) == b"old!" * 1024
    await disks.destroy(A)
    assert list(disks.sizes()) == [B]
    await disks.fill(A, "raw", stream(b"3rd!" * 1024))
    assert (read(disks, A)[:4], read(disks, B)[:4]) == (b"3rd!", b"old!")
    await disks.destroy(B)
    assert names(disks) == [f"{A}.2.raw"]


async def test_a_disk_in_use_is_left_alone(disks, used):
    await disks.create(A, MIB)
    used.add(A)
    for act in (
        disks.destroy(A),
        disks.resize(A, 2 * MIB),
        disks.clone(B, A),
        disks.fill(A, "raw", stream(b"x")),
    ):
        with pytest.raises(BackendError, match="VDI_IN_USE"):
            await act
    assert disks.sizes() == {A: MIB}


async def test_what_a_crash_left_is_cleared_at_the_start(disks):
    await disks.create(A, MIB)
    await disks.clone(B, A)
    (disks.directory / f"{C}.part").write_bytes(b"half")
    (disks.directory / f"{C}.1.hidden").touch()
    # Killed between marking a parent and removing it, and between its file and its marker.
    disks.get(A).marker.touch()
    disks.start()
    assert disks.sizes() == {B: MIB}
    assert chain.find_file(disks.directory, A) is None
    await disks.create(C, MIB)
    assert C in disks.sizes()
    await disks.destroy(B)
    assert list(disks.sizes()) == [C]
