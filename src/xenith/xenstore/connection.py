"""One client's connection to the store: what it may do, its watches and its transactions.

The methods are the protocol's operations; ``requests`` reads them from frames, and what runs in
our own process calls them. Each happens at once and whole.

Source: xen, docs/misc/xenstore.txt; the order of checks is xenstored 4.17's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xenith.xenstore import paths
from xenith.xenstore.edits import missing_above, remove_tree
from xenith.xenstore.errors import XenstoreError
from xenith.xenstore.nodes import OWN, READ, WRITE, Node, Permission, access_of
from xenith.xenstore.store import CONTROL_DOMID, Domain, Store
from xenith.xenstore.transaction import Transaction
from xenith.xenstore.view import View
from xenith.xenstore.wire import RELATIVE_PATH_BYTES_MAX

#: Told a path and a token; the path as the watch has it, from the root or relative.
EventListener = Callable[[str, bytes], None]


@dataclass(frozen=True)
class _Watch:
    path: str
    token: bytes
    is_relative: bool
    depth_max: int | None

    @property
    def size_bytes(self) -> int:
        return len(self.path) + len(self.token)


class Connection:
    """A client's hold on the store; that of a domain, or of the control domain's tools."""

    def __init__(self, store: Store, domain: Domain, listener: EventListener) -> None:
        self.store = store
        self.domain = domain
        #: A domain that this one stands for, beside itself. Source: SET_TARGET.
        self.target: Domain | None = None
        #: What its owner does when the store lets it go.
        self.on_close: Callable[[], None] = lambda: None
        #: Answers on their way to it.
        self.outstanding_count = 0
        self._listener = listener
        self._watches: dict[tuple[str, bytes], _Watch] = {}
        self._transactions: dict[int, Transaction] = {}
        self._last_transaction_id = 0

    @property
    def is_privileged(self) -> bool:
        """Whether neither permissions nor quotas hold it."""
        return self.domain.is_privileged

    def access_to(self, permissions: Sequence[Permission]) -> int:
        """Tell what it may do with something that has these permissions."""
        if self.is_privileged:
            return READ | WRITE | OWN
        own = self.domain.domid
        stands_for = (own,) if self.target is None else (own, self.target.domid)
        return access_of(permissions, stands_for)

    @property
    def transaction_count(self) -> int:
        """How many it has begun and not ended."""
        return len(self._transactions)

    @property
    def watch_count(self) -> int:
        """How many watches it has."""
        return len(self._watches)

    # -- nodes

    def read(self, path: str, *, transaction_id: int = 0) -> bytes:
        """Give a node's value."""
        return self._get(self._view(transaction_id), self._path(path), READ).value

    def directory(self, path: str, *, transaction_id: int = 0) -> Node:
        """Give a node for its children and generation."""
        return self._get(self._view(transaction_id), self._path(path), READ)

    def write(self, path: str, value: bytes, *, transaction_id: int = 0) -> None:
        """Set a node's value; make it, and what is missing above it."""
        path = self._path(path)
        with self._changing(transaction_id) as view:
            node = self._find(view, path, WRITE)
            if node is None:
                self._create(view, path, value)
            else:
                self._put(view, path, node._replace(value=value))
            view.fire(path)

    def mkdir(self, path: str, *, transaction_id: int = 0) -> None:
        """Have a node be there."""
        path = self._path(path)
        with self._changing(transaction_id) as view:
            if self._find(view, path, WRITE) is None:
                self._create(view, path, b"")
                view.fire(path)

    def rm(self, path: str, *, transaction_id: int = 0) -> None:
        """Have a node, and those below it, not be there."""
        path = self._path(path)
        with self._changing(transaction_id) as view:
            if self._find(view, path, WRITE) is None:
                if view.find(paths.parent(path)) is None:
                    raise XenstoreError("ENOENT")
            elif path == "/":
                raise XenstoreError("EINVAL")
            else:
                remove_tree(view, path)

    def get_perms(self, path: str, *, transaction_id: int = 0) -> tuple[Permission, ...]:
        """Give a node's permissions."""
        return self._get(self._view(transaction_id), self._path(path), READ).permissions

    def set_perms(
        self, path: str, permissions: Sequence[Permission], *, transaction_id: int = 0
    ) -> None:
        """Set the permissions of a node, or of a special watch."""
        store = self.store
        if not self.is_privileged and len(permissions) > store.quotas.permission_count:
            raise XenstoreError("ENOSPC")
        if permissions[0].domid not in store.domains:
            raise XenstoreError("ENOENT")
        wanted = tuple(
            entry._replace(is_void=entry.domid not in store.domains) for entry in permissions
        )
        if paths.is_special(path):
            self._set_special(path, wanted)
            return
        path = self._path(path)
        with self._changing(transaction_id) as view:
            node = self._get(view, path, WRITE | OWN)
            if not self.is_privileged and wanted[0].domid != node.owner:
                raise XenstoreError("EPERM")
            self._put(view, path, node._replace(permissions=wanted))
            view.fire(path, before=node.permissions)

    # -- watches

    def watch(self, path: str, token: bytes, *, depth_max: int | None = None) -> Callable[[], None]:
        """Watch a path and below; give what tells the first event, which is to come at once."""
        watched = self._watched(path)
        if (watched, token) in self._watches:
            raise XenstoreError("EEXIST")
        if not self.is_privileged and self.watch_count > self.store.quotas.watch_count:
            raise XenstoreError("E2BIG")
        is_relative = not path.startswith(("/", "@"))
        watch = _Watch(watched, token, is_relative, depth_max)
        self.store.check_memory(self.domain, watch.size_bytes)
        self.domain.memory_bytes += watch.size_bytes
        self._watches[watched, token] = watch
        self.store.watching[self] = None
        return lambda: self._tell(watch, watched)

    def unwatch(self, path: str, token: bytes) -> None:
        """Watch no more."""
        watch = self._watches.pop((paths.absolute(path, self.domain.domid), token), None)
        if watch is None:
            raise XenstoreError("ENOENT")
        self.domain.memory_bytes -= watch.size_bytes

    def hear(self, path: str, *, is_exact: bool) -> None:
        """Tell the client of a change that it may know of, if it watches there."""
        for watch in tuple(self._watches.values()):
            if path == watch.path or (not is_exact and paths.is_within(path, watch.path)):
                below = paths.depth(path) - paths.depth(watch.path)
                if watch.depth_max is None or below <= watch.depth_max:
                    self._tell(watch, path)

    def _tell(self, watch: _Watch, path: str) -> None:
        if watch.is_relative:
            path = path[len(paths.domain_path(self.domain.domid)) :].lstrip("/")
        self._listener(path, watch.token)

    def _watched(self, path: str) -> str:
        if paths.is_special(path):
            if len(path) > RELATIVE_PATH_BYTES_MAX:
                raise XenstoreError("EINVAL")
            return path
        return self._path(path)

    # -- transactions

    def transaction_start(self) -> int:
        """Begin a transaction and give its id."""
        if not self.is_privileged and self.transaction_count > self.store.quotas.transaction_count:
            raise XenstoreError("ENOSPC")
        while True:
            self._last_transaction_id = (self._last_transaction_id + 1) % (1 << 32)
            number = self._last_transaction_id
            if number and number not in self._transactions:
                self._transactions[number] = Transaction(self.store, self.domain)
                return number

    def transaction_end(self, transaction_id: int, *, is_commit: bool) -> None:
        """End a transaction, which is gone however this ends."""
        transaction = self._transactions.pop(transaction_id, None)
        if transaction is None:
            raise XenstoreError("ENOENT")
        try:
            if is_commit:
                transaction.commit()
                self._has_changed()
        finally:
            transaction.close()

    def check_transaction(self, transaction_id: int) -> None:
        """Refuse a transaction that there is not.

        Raises:
            XenstoreError: ENOENT.
        """
        if transaction_id and transaction_id not in self._transactions:
            raise XenstoreError("ENOENT")

    def reset(self) -> None:
        """Drop all watches and transactions."""
        for watch in self._watches.values():
            self.domain.memory_bytes -= watch.size_bytes
        self._watches.clear()
        self.store.watching.pop(self, None)
        for transaction in self._transactions.values():
            transaction.close()
        self._transactions.clear()

    def close(self) -> None:
        """End it, by either side."""
        self.reset()
        if self.domain.connection is self:
            self.domain.connection = None
        self.on_close()

    # -- within

    def _view(self, transaction_id: int) -> View:
        self.check_transaction(transaction_id)
        return self._transactions[transaction_id] if transaction_id else self.store

    @contextmanager
    def _changing(self, transaction_id: int) -> Iterator[View]:
        yield self._view(transaction_id)
        if not transaction_id:
            self._has_changed()

    def _has_changed(self) -> None:
        if not self.is_privileged:
            self.store.on_guest_change(self.domain.domid)

    def _path(self, path: str) -> str:
        path = paths.absolute(path, self.domain.domid)
        paths.check(path, self.store.quotas.path_bytes)
        return path

    def _find(self, view: View, path: str, access: int) -> Node | None:
        """Find a node for what it is to be used for.

        Raises:
            XenstoreError: EACCES, also where one who may not know must not learn what is there.
        """
        node = view.find(path)
        if node is not None:
            if self.access_to(node.permissions) & access == access:
                return node
            raise XenstoreError("EACCES")
        while node is None:
            path = paths.parent(path)
            node = view.find(path)
        if not self.access_to(node.permissions) & access:
            raise XenstoreError("EACCES")
        return None

    def _get(self, view: View, path: str, access: int) -> Node:
        node = self._find(view, path, access)
        if node is None:
            raise XenstoreError("ENOENT")
        return node

    def _set_special(self, name: str, wanted: tuple[Permission, ...]) -> None:
        held = self.store.special_permissions.get(name)
        if held is None:
            raise XenstoreError("EINVAL")
        if not self.access_to(held) & OWN:
            raise XenstoreError("EACCES")
        self.store.special_permissions[name] = wanted

    def _create(self, view: View, path: str, value: bytes) -> None:
        """Make a node and what is missing above it; each inherits what the one above allows."""
        at, above, missing = missing_above(view, path)
        permissions: tuple[Permission, ...] = above.permissions
        if not self.is_privileged:
            # What a domain makes, it owns.
            own = permissions[0]._replace(domid=self.domain.domid)
            permissions = (own, *permissions[1:])
            self._check_count(len(missing) if view is self.store else 1)
        made = {at: above._replace(children=(*above.children, paths.name(missing[-1])))}
        for place, below in zip(reversed(missing), [*reversed(missing[:-1]), ""], strict=True):
            children = (paths.name(below),) if below else ()
            made[place] = Node(value if place == path else b"", permissions, children)
        self._check_sizes(view, made.values())
        if view is self.store and not self.is_privileged:
            grown = sum(node.size_bytes + len(place) for place, node in made.items())
            self.store.check_memory(self.domain, grown)
        for place, node in made.items():
            view.put(place, node, is_forced=self.is_privileged)

    def _put(self, view: View, path: str, node: Node) -> None:
        self._check_sizes(view, [node])
        # What the host writes to a guest's tree, the guest cannot keep out by filling it.
        view.put(path, node, is_forced=self.is_privileged)

    def _check_count(self, more: int) -> None:
        if self.domain.node_count + more > self.store.quotas.node_count:
            raise XenstoreError("ENOSPC")

    def _check_sizes(self, view: View, nodes: Iterable[Node]) -> None:
        if self.is_privileged:
            return
        if any(node.size_bytes >= self.store.quotas.node_size_bytes for node in nodes):
            view.fail()
            raise XenstoreError("ENOSPC")


def control_connection(store: Store, listener: EventListener | None = None) -> Connection:
    """Connect the control domain's own tools."""
    return Connection(store, store.domains[CONTROL_DOMID], listener or (lambda _path, _token: None))
