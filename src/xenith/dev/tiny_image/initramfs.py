"""The initial RAM disk: a cpio archive of busybox, a few kernel modules and the guest's scripts.

It is written uncompressed: unpacking costs an emulated processor more than reading a few MB.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst ("newc": magic, then
thirteen numbers of eight hexadecimal digits, the name, the data, each padded to four bytes).
"""

from __future__ import annotations

import re
import stat
import subprocess
from importlib.resources import files
from pathlib import Path

#: Modules by when the guest loads them; what they depend on is found in the modules themselves.
MODULES = {
    "disks": (
        "virtio_pci",
        "virtio_blk",
        "xen-blkfront",
        "isofs",
        "vfat",
        "nls_cp437",
        "nls_iso8859-1",
        "nls_ascii",
    ),
    "rest": (
        "virtio_net",
        "xen-netfront",
        "button",
        "evdev",
        "pvpanic-mmio",
        "virtio-rng",
        "virtio_console",
    ),
    "cds": ("ata_piix", "sr_mod"),
}
#: Where each script of ``guest`` goes, and whether it is run.
SCRIPTS = {
    "inittab": ("etc/inittab", False),
    "boot": ("etc/xenith/boot", True),
    "configure": ("etc/xenith/configure", False),
    "user-data": ("etc/xenith/user-data", True),
    "login": ("etc/xenith/login", True),
    "json.awk": ("etc/xenith/json.awk", False),
    "network.awk": ("etc/xenith/network.awk", False),
    # Source: busybox, acpid: the handler of the power button's event.
    "power-button": ("etc/acpi/PWRF/00000080", True),
}
#: Root has no password until the config drive gives one.
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/issue": "xenith-tiny \\n \\l\n\n",
}
DIRECTORIES = (
    "bin dev etc/acpi/PWRF etc/xenith lib/modules proc root run sbin sys tmp usr/bin usr/sbin"
)


def write_initramfs(root: Path, destination: Path) -> None:
    """Write the archive from unpacked packages."""
    busybox = root / "bin" / "busybox"
    archive = Archive()
    for path in DIRECTORIES.split():
        archive.directory(path)
    archive.file("bin/busybox", busybox.read_bytes(), is_run=True)
    for applet in _applets(busybox):
        archive.link(applet, "/bin/busybox")
    archive.link("init", "/bin/busybox")
    for name, (path, is_run) in SCRIPTS.items():
        archive.file(path, files(__package__).joinpath("guest", name).read_bytes(), is_run=is_run)
    for path, text in TEXTS.items():
        archive.file(path, text.encode(), is_run=False)
    for phase, modules in _resolve(root / "lib" / "modules").items():
        for module in modules:
            archive.file(f"lib/modules/{module.name}", module.read_bytes(), is_run=False)
        listed = "".join(f"{module.stem}\n" for module in modules)
        archive.file(f"etc/xenith/modules.{phase}", listed.encode(), is_run=False)
    destination.write_bytes(archive.finish())


def _applets(busybox: Path) -> list[str]:
    """Ask busybox, which is static, for its own list of links."""
    listed = subprocess.run(  # noqa: S603 - from Debian's own package
        [busybox, "--list-full"], capture_output=True, text=True, check=True, timeout=30
    )
    return [path for path in listed.stdout.split() if path not in ("bin/busybox", "linuxrc")]


def _resolve(modules: Path) -> dict[str, list[Path]]:
    """Order each phase's modules behind those they depend on; each module comes once."""
    paths = {_plain(path.stem): path for path in modules.rglob("*.ko")}
    done: set[str] = set()

    def add(name: str, phase: list[Path]) -> None:
        path = paths.get(_plain(name))
        # What is not there as a file is built into the kernel.
        if path is None or _plain(name) in done:
            return
        done.add(_plain(name))
        for dependency in _dependencies(path):
            add(dependency, phase)
        phase.append(path)

    phases: dict[str, list[Path]] = {}
    for phase, names in MODULES.items():
        phases[phase] = []
        for name in names:
            add(name, phases[phase])
    return phases


def _dependencies(path: Path) -> list[str]:
    """Read what a module says of itself: texts of the form ``key=value``, ended by zeros."""
    found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
    return [name for name in found[1].decode().split(",") if name] if found else []


def _plain(name: str) -> str:
    return name.replace("-", "_")


class Archive:
    """A cpio archive in the making; owner root, no times, so that it is the same each time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0
        self._names: set[str] = set()

    def directory(self, path: str) -> None:
        """Add a directory, with those above it."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name not in self._names:
                self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, data: bytes, *, is_run: bool) -> None:
        """Add a file."""
        self._add(path, stat.S_IFREG | (0o755 if is_run else 0o644), data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        """End the archive and give it."""
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        self._names.add(name)
        self._count += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (self._count, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._parts += [_padded(head), _padded(data)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
