"""The tiny image: a bootable disk of a few dozen MB that is up in seconds, also when emulated.

Debian's cloud kernel and busybox, on one FAT file system with syslinux in front; everything runs
from the initial RAM disk and nothing is kept over a reboot. What the guest does is in the scripts
beside this file, under ``guest``. Built without root, without a mount, and from Debian packages
alone, which are downloaded and unpacked but not installed.

It needs 96 MiB: Debian's kernel unpacks itself into 52 MiB from the 16th on, and with less the
initial RAM disk lies in its way, so that the machine resets before the kernel says a word.
"""

from xenith.dev.tiny_image.build import build_tiny_image, find_or_build

__all__ = ["build_tiny_image", "find_or_build"]
