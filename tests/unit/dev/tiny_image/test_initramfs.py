"""The archive that the kernel unpacks, and the modules chosen for it."""

import shutil
import subprocess

import pytest

from xenith.dev.tiny_image import initramfs
from xenith.dev.tiny_image.bootdisk import partition_table


def module(path, *depends):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"ELF\0name=x\0depends=" + ",".join(depends).encode() + b"\0license=GPL\0")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_cpio_unpacks_what_was_put_in(tmp_path):
    archive = initramfs.Archive()
    archive.directory("a/b")
    archive.directory("a/c")
    archive.file("a/b/run", b"#!/bin/sh\n", is_run=True)
    archive.file("a/odd", b"12345", is_run=False)
    archive.link("link", "/a/odd")
    command = ["cpio", "--extract", "--quiet", "--no-absolute-filenames"]
    subprocess.run(command, input=archive.finish(), cwd=tmp_path, check=True)
    assert (tmp_path / "a/b/run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/odd").read_bytes() == b"12345"
    assert (tmp_path / "a/c").is_dir()
    assert (tmp_path / "link").readlink().as_posix() == "/a/odd"


def test_modules_come_behind_what_they_depend_on_and_only_once(tmp_path):
    module(tmp_path / "k/virtio_blk.ko", "virtio", "virtio_ring")
    module(tmp_path / "k/virtio_pci.ko", "virtio_ring", "virtio")
    module(tmp_path / "k/virtio_ring.ko", "virtio")
    module(tmp_path / "k/virtio.ko")
    module(tmp_path / "k/sr_mod.ko", "cdrom", "scsi-built-in")
    module(tmp_path / "k/cdrom.ko", "virtio")
    found = initramfs._resolve(tmp_path)
    stems = {phase: [path.stem for path in paths] for phase, paths in found.items()}
    assert stems["disks"] == ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]
    assert stems["cds"] == ["cdrom", "sr_mod"]


def test_every_script_of_the_guest_is_in_the_archive():
    guest = initramfs.files("xenith.dev.tiny_image").joinpath("guest")
    assert {path.name for path in guest.iterdir()} == set(initramfs.SCRIPTS)


def test_the_partition_table_has_one_active_partition_and_room_for_the_boot_code():
    sector = partition_table(b"\x90" * 440, 1000)
    assert len(sector) == 512
    assert sector[:440] == b"\x90" * 440
    assert sector[446] == 0x80
    assert sector[454:462] == (2048).to_bytes(4, "little") + (1000).to_bytes(4, "little")
    with pytest.raises(AssertionError, match="overwrite"):
        partition_table(b"\x90" * 441, 1000)
