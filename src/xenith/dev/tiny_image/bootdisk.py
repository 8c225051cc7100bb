"""The disk itself: a partition table, one FAT partition, syslinux, kernel and initial RAM disk.

    sector 0      boot code and the table of one active partition
    sector 2048   FAT16, with ldlinux.sys, syslinux.cfg, vmlinuz and initrd

Made with mtools and syslinux on the plain file, so neither root nor a mount is needed. GRUB was
rejected: its core image alone takes longer to start under emulation.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from xenith.dev.packages import run

_SECTOR_BYTES = 512
_START_SECTORS = 2048
_ALIGNMENT_BYTES = 4 * 1024 * 1024
#: Beside the files: the file system's own tables and room to spare.
_SPARE_BYTES = 6 * 1024 * 1024
#: 4 KiB; with it a disk from 17 to 255 MiB is FAT16.
_CLUSTER_SECTORS = 8
_FAT16_LBA = 0x0E
_BOOT_CODE_BYTES_MAX = 440
#: No console but the serial one. What the kernel says of itself is for those who look (dmesg).
#: A single user's guest needs no mitigations against its own processes. `pci=noacpi` would save
#: 0.8 s under emulation and was rejected: the kernel then warns and does without MSI.
KERNEL_ARGUMENTS = "console=ttyS0,115200 quiet loglevel=3 panic=10 mitigations=off no_timer_check"
_CONFIG = f"""\
DEFAULT xenith-tiny
PROMPT 0
TIMEOUT 0
LABEL xenith-tiny
  LINUX vmlinuz
  INITRD initrd
  APPEND {KERNEL_ARGUMENTS}
"""


def write_boot_disk(destination: Path, *, root: Path, kernel: Path, initramfs: Path) -> None:
    """Write a bootable raw disk.

    Raises:
        Unavailable: mtools or syslinux failed.
    """
    content = kernel.stat().st_size + initramfs.stat().st_size + _SPARE_BYTES
    size = -(-(content + _START_SECTORS * _SECTOR_BYTES) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    sectors = size // _SECTOR_BYTES - _START_SECTORS
    boot_code = (root / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
    with destination.open("wb") as disk:
        disk.truncate(size)
        disk.write(partition_table(boot_code, sectors))
    config = destination.with_suffix(".cfg")
    config.write_text(_CONFIG)
    start = str(_START_SECTORS * _SECTOR_BYTES)
    partition = f"{destination}@@{start}"
    geometry = ["-T", str(sectors), "-h", "255", "-s", "63", "-H", str(_START_SECTORS)]
    shape = ["-c", str(_CLUSTER_SECTORS), "-m", "0xf8", "-v", "XENITH", "-N", "78656e69"]
    # The unpacked packages are not installed, and syslinux itself calls mtools by name.
    path = {"PATH": f"{root / 'usr/bin'}:{os.environ.get('PATH', os.defpath)}"}
    path["MTOOLS_SKIP_CHECK"] = "1"
    for command in (
        ["mformat", "-i", partition, *geometry, *shape, "::"],
        ["syslinux", "--install", "--offset", start, str(destination)],
        ["mcopy", "-i", partition, str(kernel), "::vmlinuz"],
        ["mcopy", "-i", partition, str(initramfs), "::initrd"],
        ["mcopy", "-i", partition, str(config), "::syslinux.cfg"],
    ):
        run(*command, directory=destination.parent, environment=path)
    config.unlink()


def partition_table(boot_code: bytes, sectors: int) -> bytes:
    """Give the first sector: boot code and one active FAT16 partition.

    Source: the PC's master boot record: entries of 16 bytes from 446, little-endian; cylinders
    and heads are given as out of range, since everything since 1996 uses the sector numbers.
    """
    assert len(boot_code) <= _BOOT_CODE_BYTES_MAX, "the boot code would overwrite the table"
    far = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, far, _FAT16_LBA, far, _START_SECTORS, sectors)
    return boot_code.ljust(446, b"\0") + entry + bytes(48) + b"\x55\xaa"
