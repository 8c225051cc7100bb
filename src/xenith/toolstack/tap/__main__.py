"""``python -m xenith.toolstack.tap LEAF rw|ro SOCKET …``: serves a domain's disks to its QEMU.

In the working directory, that of the domain, it listens at each disk's socket for QEMU, and at
``tap.sock`` for the toolstack, which may come and go, and whose orders each begin with a number
that the answer does too:

    1 hold <socket>    its chain is closed, and the answer comes when it is
    2 go <socket>      its chain is open again
    3 ionice <socket> <class> <level>
    4 quit             as if QEMU had ended

It ends when QEMU has, which is when all of its connections have. What it held for a toolstack that
went away goes on: a guest never waits for somebody who is dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from xenith.core.errors import XenithError
from xenith.toolstack.tap.disk import TapDisk
from xenith.toolstack.tap.nbd import ProtocolError, serve

CONTROL = "tap.sock"
#: Seconds from our start until QEMU has opened its disks.
BEGIN_TIMEOUT_S = 60.0


class Tap:
    """The disks of one domain."""

    def __init__(self, disks: dict[str, TapDisk]) -> None:
        self._disks = disks
        #: Threads that serve a disk, by its socket: the weight of its input and output is theirs.
        self._served: dict[str, int] = {}
        self._waited_for = set(disks)
        self._changed = threading.Condition()
        self._is_over = False

    def run(self) -> None:
        """Serve until QEMU has ended. Blocks."""
        for name in self._disks:
            listener = _listen(name)
            threading.Thread(target=self._serve, args=(name, listener), daemon=True).start()
        control = _listen(CONTROL)
        threading.Thread(target=self._obey_all, args=(control,), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or not self._waited_for, BEGIN_TIMEOUT_S)
            self._changed.wait_for(lambda: self._is_over or not self._served)
        for disk in self._disks.values():
            disk.close()

    def _serve(self, name: str, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        # One client, once: who comes later does not know what is in flight.
        listener.close()
        with self._changed:
            self._served[name] = threading.get_native_id()
            self._waited_for.discard(name)
            self._changed.notify_all()
        try:
            with connection:
                serve(connection, self._disks[name])
        except (OSError, ProtocolError) as error:
            _say(name, error)
        finally:
            with self._changed:
                del self._served[name]
                self._changed.notify_all()

    def _obey_all(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection, connection.makefile("rwb") as lines:
                for line in lines:
                    number, *words = line.decode().split() or [""]
                    lines.write(f"{number} {self._obey(words)}\n".encode())
                    lines.flush()
            for disk in self._disks.values():
                # Who held it has died.
                self._go_on(disk)

    def _obey(self, words: list[str]) -> str:
        try:
            match words:
                case ["quit"]:
                    with self._changed:
                        self._is_over = True
                        self._changed.notify_all()
                case ["hold", name] if name in self._disks:
                    self._disks[name].hold()
                case ["go", name] if name in self._disks:
                    self._disks[name].go_on()
                case ["ionice", name, kind, level] if name in self._served:
                    thread = str(self._served[name])
                    command = ["ionice", "-c", kind, "-n", level, "-p", thread]
                    subprocess.run(command, check=True, stderr=subprocess.PIPE)  # noqa: S603 - of the toolstack's words
                case _:
                    return f"error: {' '.join(words)} is not understood"
        except (XenithError, OSError, subprocess.CalledProcessError) as error:
            return f"error: {error}"
        return "done"

    @staticmethod
    def _go_on(disk: TapDisk) -> None:
        try:
            disk.go_on()
        except (XenithError, OSError) as error:
            # QEMU gets no answer; its domain is stuck as one whose disk went away is.
            _say(str(disk.path), error)


def main(arguments: list[str]) -> int:
    """Open the disks and serve them."""
    disks: dict[str, TapDisk] = {}
    for at in range(0, len(arguments), 3):
        leaf, mode, name = arguments[at : at + 3]
        try:
            disks[name] = TapDisk(Path(leaf), is_read_only=mode == "ro")
        except (XenithError, OSError) as error:
            _say(leaf, error)
            return 1
    Tap(disks).run()
    return 0


def _say(of: str, error: Exception) -> None:
    # Into the domain's tap.log, whose end the toolstack reads when we end too early.
    sys.stderr.write(f"{of}: {error}\n")
    sys.stderr.flush()


def _listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        Path(name).unlink()
    # A relative name: a socket's path may have only 108 bytes. Only we ourselves may connect.
    old = os.umask(0o177)
    try:
        listener.bind(name)
    finally:
        os.umask(old)
    listener.listen(4)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
