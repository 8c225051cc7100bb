"""Building the tiny image, or finding the one that was built before."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from xenith.core.errors import Unavailable
from xenith.dev.packages import check_tools, run, unpack
from xenith.dev.tiny_image.bootdisk import write_boot_disk
from xenith.dev.tiny_image.initramfs import write_initramfs

#: Names the newest cloud kernel by depending on it.
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("busybox-static", "mtools", "syslinux", "syslinux-common")


def build_tiny_image(destination: Path, *, work: Path | None = None) -> Path:
    """Build the image as a raw disk at ``destination`` and give its path.

    ``work`` is where packages are unpacked and left; by default a directory that is removed.
    The image appears whole or not at all. Blocks for ten seconds or so.

    Raises:
        Unavailable: the Debian packages cannot be had; the message says why and what to do.
    """
    destination = destination.absolute()
    destination.parent.mkdir(parents=True, exist_ok=True)
    if work is not None:
        return _build(destination, work.absolute())
    with tempfile.TemporaryDirectory(prefix="xenith-tiny-") as directory:
        return _build(destination, Path(directory))


def find_or_build(directory: Path | None = None) -> Path:
    """Give the image from a directory, by default the user's cache; build it if it is not there.

    Raises:
        Unavailable: it cannot be built.
    """
    if directory is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(cache) / "xenith"
    image = directory / f"tiny-{_fingerprint()}.raw"
    return image if image.exists() else build_tiny_image(image)


def _build(destination: Path, work: Path) -> Path:
    root = unpack([_kernel_package(work), *PACKAGES], work)
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise Unavailable("the Debian kernel package holds no kernel: report this as a bug")
    initramfs = work / "initrd"
    write_initramfs(root, initramfs)
    # Beside its destination, so that the rename stays in one file system.
    part = destination.with_name(destination.name + ".part")
    try:
        write_boot_disk(part, root=root, kernel=kernels[-1], initramfs=initramfs)
        part.replace(destination)
    finally:
        part.unlink(missing_ok=True)
    return destination


def _kernel_package(work: Path) -> str:
    """Tell the package that holds the kernel itself."""
    check_tools(KERNEL)
    said = run("apt-cache", "depends", KERNEL, directory=work, next_step="apt-get update")
    for line in said.splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise Unavailable(f"apt knows no kernel behind {KERNEL}: run apt-get update and try again")


def _fingerprint() -> str:
    """Digest what decides how the image comes out, so that a changed one is built anew."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.glob("guest/*")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
