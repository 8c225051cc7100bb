"""A network of a test's own, in which a link can be cut by a rule of the firewall.

A Linux network namespace belongs to a thread and what it starts. The rules in it are nobody else's:
the loopback of the namespace is not the machine's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

#: Source: linux/sched.h.
CLONE_NEWNET = 0x40000000
TABLE = "xenith_test"
#: Ports that are given at the start, to hosts and brokers, and ports of connections afterwards: who
#: starts again at its own port must not find that somebody's connection has it.
PORTS_AT_START = "20000 39999"
PORTS_AFTERWARDS = "40000 60999"
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Network:
    """Where the processes of a region talk; ``reason`` says why links cannot be cut, if so."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    @property
    def can_cut(self) -> bool:
        """Whether this machine lets us have a network of our own."""
        return not self.reason

    def has_given_ports(self) -> None:
        """Have connections made from now on keep off the ports that were given so far."""
        if self.can_cut:
            _PORT_RANGE.write_text(PORTS_AFTERWARDS)

    def cut(self, port: int, *, process_id: int) -> None:
        """Drop all that a process sends to a port, and whatever else would newly connect to it.

        Nobody is told: it is as if the cable were out.
        """
        sources = _source_ports(process_id, port)
        assert sources, "there is a connection to be cut"
        rules = [f"add table inet {TABLE}"]
        chain = "{ type filter hook output priority 0; }"
        rules.append(f"add chain inet {TABLE} out {chain}")
        for source in sources:
            rules.append(f"add rule inet {TABLE} out tcp sport {source} tcp dport {port} drop")
            rules.append(f"add rule inet {TABLE} out tcp sport {port} tcp dport {source} drop")
        new = "tcp flags & (syn | ack) == syn"
        rules.append(f"add rule inet {TABLE} out tcp dport {port} {new} drop")
        _run("nft", "-f", "-", given="\n".join(rules) + "\n")

    def heal(self) -> None:
        """Let everything through again."""
        _run("nft", f"delete table inet {TABLE}")


@contextlib.contextmanager
def own_network() -> Iterator[Network]:
    """Take this thread into a network of its own, where the machine allows it."""
    reason = _why_not()
    if reason:
        yield Network(reason)
        return
    # Each thread has its own place; the process's main thread is shown by the plain path.
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        try:
            _call("unshare", CLONE_NEWNET)
        except OSError as error:
            yield Network(f"no network namespace can be made here: {error}")
            return
        try:
            _run("ip", "link", "set", "lo", "up")
            _PORT_RANGE.write_text(PORTS_AT_START)
            yield Network()
        finally:
            _call("setns", before.fileno(), CLONE_NEWNET)


def connection_counts(process_id: int) -> dict[int, int]:
    """Count a process's established connections by the port at the other end."""
    counts: dict[int, int] = {}
    for _, remote in _connections(process_id):
        counts[remote] = counts.get(remote, 0) + 1
    return counts


def _source_ports(process_id: int, port: int) -> list[int]:
    return [local for local, remote in _connections(process_id) if remote == port]


def _connections(process_id: int) -> Iterator[tuple[int, int]]:
    """Give the ports of a process's established connections, its own first."""
    sockets = set()
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            if found:
                sockets.add(found[1])
    for line in Path(f"/proc/{process_id}/net/tcp").read_text().splitlines()[1:]:
        # Source: proc(5), /proc/net/tcp; state 01 is ESTABLISHED.
        _, local, remote, state, *rest = line.split()
        if state == "01" and rest[5] in sockets:
            yield int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)


def _why_not() -> str:
    if os.geteuid() != 0:
        return "only root may make a network namespace"
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2, nftables)"
    return ""


def _call(name: str, *arguments: int) -> None:
    """Call the C library: Python has these from 3.12 on."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(*command: str, given: str | None = None) -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
