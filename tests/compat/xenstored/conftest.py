"""One script of operations on two stores: ours, and real xenstored from Debian."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenith.core.errors import Unavailable
from xenith.dev.xenstored import RealXenstored, RingWire, SocketWire, find_or_unpack
from xenith.xenstore.connection import Connection, control_connection
from xenith.xenstore.requests import answer
from xenith.xenstore.store import Store
from xenith.xenstore.wire import HEADER, Frame, Op, decode_header

#: A request's answer, and the events that came before it.
Said = tuple[list[bytes], int, bytes]


class OurClient:
    """A client of a store in this process."""

    def __init__(self, store: Store, domid: int) -> None:
        domain = store.domains[domid]
        if domid:
            self._connection = Connection(store, domain, self._hear)
            domain.connection = self._connection
        else:
            self._connection = control_connection(store, self._hear)
        self._events: list[bytes] = []

    def _hear(self, path: str, token: bytes) -> None:
        event = path.encode() + b"\0" + token + b"\0"
        if event not in self._events or event.startswith(b"@"):
            self._events.append(event)

    def ask(self, op: int, payload: bytes, transaction_id: int = 0) -> Said:
        """Send a request; give its answer."""
        reply, afterwards = answer(self._connection, Frame(op, 1, transaction_id, payload))
        heard, self._events = self._events, []
        afterwards()
        return heard, reply.op, reply.payload


class RealClient:
    """A client of a daemon."""

    def __init__(self, wire: SocketWire | RingWire) -> None:
        self._wire = wire

    def ask(self, op: int, payload: bytes, transaction_id: int = 0) -> Said:
        """Send a request; give its answer."""
        self._wire.send(Frame(op, 1, transaction_id, payload).encode())
        events = []
        while True:
            header = decode_header(self._wire.receive(HEADER.size))
            body = self._wire.receive(header.size_bytes)
            if header.op != Op.WATCH_EVENT:
                return events, header.op, body
            events.append(body)

    def close(self) -> None:
        """Let go."""
        self._wire.close()


class OurXenstore:
    """A store of ours, and its domains."""

    def __init__(self) -> None:
        self.store = Store()

    def create_domain(self, domid: int) -> None:
        """Have a domain be."""
        self.store.create_domain(domid)

    def client(self, domid: int) -> OurClient:
        """Give a client, 0 for a tool."""
        return OurClient(self.store, domid)

    def stop(self) -> None:
        """End it."""
        assert self.store.check_whole() == []


class RealXenstore:
    """A daemon, and its domains."""

    def __init__(self, root: Path) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="xenith-xs-")
        self.daemon = RealXenstored(root, Path(self._directory.name))
        self.create_domain = self.daemon.create_domain
        self._clients: list[RealClient] = []

    def client(self, domid: int) -> RealClient:
        """Give a client, 0 for a tool."""
        wire = self.daemon.guest(domid) if domid else self.daemon.connect()
        self._clients.append(RealClient(wire))
        return self._clients[-1]

    def stop(self) -> None:
        """End it."""
        self.daemon.stop()
        for client in self._clients:
            client.close()
        self._directory.cleanup()


class Pair:
    """Both stores, with a tool and two guests each; every answer must be the same."""

    def __init__(self, root: Path) -> None:
        self.stores = [OurXenstore(), RealXenstore(root)]
        self._clients: dict[int, list[OurClient | RealClient]] = {}
        self.add(0)
        for domid in (3, 4):
            self.add_domain(domid)

    def add_domain(self, domid: int) -> None:
        """Have a domain be, with a tree of its own, and introduce it."""
        for store in self.stores:
            store.create_domain(domid)
        home = f"/local/domain/{domid}"
        self.ask(0, Op.MKDIR, home)
        self.ask(0, Op.SET_PERMS, home, f"n0\0r{domid}")
        self.ask(0, Op.MKDIR, f"{home}/data")
        self.ask(0, Op.SET_PERMS, f"{home}/data", f"n{domid}")
        self.ask(0, Op.INTRODUCE, str(domid), "1", "1")
        self.add(domid)

    def add(self, domid: int) -> None:
        """Connect a client to each."""
        self._clients[domid] = [store.client(domid) for store in self.stores]

    def drop(self, domid: int) -> None:
        """Forget the clients of a domain that is gone."""
        del self._clients[domid]

    def ask(self, domid: int, op: int, *words: str, transaction_id: int = 0) -> bytes:
        """Ask both with texts that end in zero bytes; give the one answer."""
        payload = b"".join(word.encode("latin-1") + b"\0" for word in words)
        return self.send(domid, op, payload, transaction_id)

    def write(self, domid: int, path: str, value: bytes, transaction_id: int = 0) -> bytes:
        """Write on both."""
        return self.send(domid, Op.WRITE, path.encode() + b"\0" + value, transaction_id)

    def send(self, domid: int, op: int, payload: bytes, transaction_id: int = 0) -> bytes:
        """Ask both; give the one answer, after all events were compared too."""
        ours, real = (
            _plain(client.ask(op, payload, transaction_id)) for client in self._clients[domid]
        )
        what = f"domain {domid}, {Op(op).name} {payload!r} in {transaction_id}"
        assert ours[1:] == real[1:], what
        for watcher, clients in self._clients.items():
            # Whatever was told is told before this answer.
            heard = [client.ask(Op.GET_DOMAIN_PATH, b"0\0")[0] for client in clients]
            if watcher == domid:
                # The real one releases a domain before it answers or after, as it happens.
                heard = [ours[0] + heard[0], real[0] + heard[1]]
            assert heard[0] == heard[1], f"{what}: domain {watcher} hears"
        return real[2]

    def stop(self) -> None:
        """End both."""
        for store in self.stores:
            store.stop()


def _plain(said: Said) -> Said:
    """Leave out a directory's generation: the two count alike, but not from the same."""
    events, op, payload = said
    return events, op, payload.partition(b"\0")[2] if op == Op.DIRECTORY_PART else payload


@pytest.fixture(scope="session")
def xenstored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the real daemon's packages are unpacked."""
    try:
        return find_or_unpack(tmp_path_factory.mktemp("xenstored"))
    except Unavailable as error:
        reason = f"real xenstored cannot be had, and ours is compared with nothing: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def pair(xenstored: Path) -> Iterator[Pair]:
    """Both stores."""
    made = Pair(xenstored)
    yield made
    made.stop()


@pytest.fixture
def make_pair(xenstored: Path) -> Iterator[type]:
    """A function that makes both stores."""
    return lambda: Pair(xenstored)
