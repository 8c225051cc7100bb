"""Finding real xenstored, and running it with a stand-in for the hypervisor."""

from __future__ import annotations

import os
import subprocess
import time
from importlib.resources import files
from pathlib import Path

from xenith.core.errors import Unavailable
from xenith.dev.packages import run, unpack
from xenith.dev.xenstored.wires import DEADLINE_S, RingWire, SocketWire

#: Downloaded and unpacked, never installed: installed, they make a machine a Xen host.
PACKAGES = (
    "xen-utils-4.17",
    "xenstore-utils",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
)
_PROGRAM = "usr/lib/xen-4.17/bin/xenstored"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_STAND_IN = "stand-in.so"


def find_or_unpack(directory: Path) -> Path:
    """Give the directory that the packages are unpacked in, with the stand-in beside them.

    Raises:
        Unavailable: the packages or a C compiler cannot be had; the message says what to do.
    """
    root = directory / "root"
    if not (directory / _STAND_IN).exists():
        directory.mkdir(parents=True, exist_ok=True)
        unpack(PACKAGES, directory)
        source = directory / "hypervisor.c"
        source.write_bytes(files(__package__).joinpath("hypervisor.c").read_bytes())
        # Without the C library's headers or start-up code, which the daemon brings.
        build = ["gcc", "-shared", "-fPIC", "-O1", "-nostdlib", "-w", "-o", f"{_STAND_IN}.part"]
        run(*build, source.name, directory=directory, next_step="apt-get install gcc")
        (directory / f"{_STAND_IN}.part").replace(directory / _STAND_IN)
    return root


class RealXenstored:
    """One daemon, with a directory of its own. Blocks while it starts and ends."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._domains = directory / "domains"
        self._domains.mkdir(parents=True)
        self.socket = directory / "socket"
        self.log = directory / "xenstored.log"
        (self._domains / "port").write_text("1\n")
        self.create_domain(0)
        os.mkfifo(self._domains / "events")
        self._events = os.open(self._domains / "events", os.O_RDWR | os.O_NONBLOCK)
        environment = {
            "LD_PRELOAD": str(root.parent / _STAND_IN),
            "LD_LIBRARY_PATH": str(root / _LIBRARIES),
            "XEN_STAND_IN": str(self._domains),
            "XENSTORED_RUNDIR": str(directory),
            "XENSTORED_ROOTDIR": str(directory),
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - from Debian's own package
                [root / _PROGRAM, "--no-fork", "--internal-db"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_it_listens()

    def connect(self) -> SocketWire:
        """Connect as a tool of the control domain."""
        return SocketWire(self.socket)

    def create_domain(self, domid: int) -> None:
        """Have a domain be; it is served once it is introduced."""
        (self._domains / str(domid)).write_bytes(bytes(4096))

    def guest(self, domid: int) -> RingWire:
        """Give a domain's end of the page that it shares."""
        return RingWire(self._domains / str(domid), self._events)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        os.close(self._events)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.connect().close()
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = self.log.read_text(errors="replace")
                    raise Unavailable(f"xenstored does not start: {said}") from error
                time.sleep(0.005)
            else:
                return
