"""Transactions: what one has looked at and would write, laid over the store.

A node is taken from the store when it is first looked at, so a transaction costs what it touches.
Its commit is refused if anything that it looked at has another generation by then; that it could
read two nodes from different moments matters nothing, since then it cannot commit.

Source: xenstored 4.17, "Some notes regarding detection and handling of transaction conflicts".
"""

from __future__ import annotations

from dataclasses import dataclass

from xenith.xenstore.errors import XenstoreError
from xenith.xenstore.nodes import Node, Permission
from xenith.xenstore.store import Domain, Store


@dataclass
class _Seen:
    """One node: as it was when first looked at, and as it is in the transaction."""

    base: Node | None
    node: Node | None
    is_changed: bool = False
    is_told: bool = False
    is_exact: bool = False


class Transaction:
    """One transaction of a domain's."""

    def __init__(self, store: Store, domain: Domain) -> None:
        self._store = store
        self._domain = domain
        self._seen: dict[str, _Seen] = {}
        self._has_failed = False
        self._has_created = False
        self._memory_bytes = 0

    # -- a view

    def find(self, path: str) -> Node | None:
        """Find a node, and remember that it was looked at, there or not."""
        seen = self._seen.get(path)
        if seen is None:
            node = self._store.find(path)
            is_over = len(self._seen) >= self._store.quotas.transaction_node_count
            if is_over and not self._domain.is_privileged:
                self._has_failed = True
                raise XenstoreError("ENOSPC")
            self._charge(len(path) + (0 if node is None else node.size_bytes))
            seen = self._seen[path] = _Seen(node, node)
        return seen.node

    def put(self, path: str, node: Node, *, is_forced: bool = False) -> None:
        """Write a node."""
        del is_forced
        before = self.find(path)
        seen = self._seen[path]
        self._charge(node.size_bytes - (0 if before is None else before.size_bytes))
        self._has_created |= before is None
        self._store.generation += 1
        seen.node = node._replace(generation=self._store.generation)
        seen.is_changed = True

    def remove(self, path: str) -> None:
        """Remove a node."""
        before = self.find(path)
        assert before is not None, "only what is there is removed"
        self._charge(-before.size_bytes)
        self._seen[path].node = None
        self._seen[path].is_changed = True

    def fire(
        self,
        path: str,
        node: Node | None = None,
        *,
        before: tuple[Permission, ...] = (),
        is_exact: bool = False,
    ) -> None:
        """Tell watches of a change once it is committed."""
        del node, before
        seen = self._seen[path]
        seen.is_exact = is_exact and (seen.is_exact or not seen.is_told)
        seen.is_told = True

    def fail(self) -> None:
        """Let it be committed no more."""
        self._has_failed = True

    # -- its end

    def commit(self) -> None:
        """Write what was changed to the store and tell watches, or nothing at all.

        Raises:
            XenstoreError: EAGAIN if something that it looked at has changed, ENOSPC over the quota
                of nodes, ENOMEM if one of its operations was cut off in the middle.
        """
        if self._has_failed:
            raise XenstoreError("ENOMEM")
        self._check_counts()
        for path, seen in self._seen.items():
            now = self._store.find(path)
            if _generation(now) != _generation(seen.base):
                raise XenstoreError("EAGAIN")
        for path, seen in self._seen.items():
            if not seen.is_changed:
                continue
            if seen.node is not None:
                self._store.put(path, seen.node, is_forced=True)
            elif seen.base is not None:
                self._store.remove(path)
            if seen.is_told:
                before = () if seen.base is None else seen.base.permissions
                self._store.fire(path, before=before, is_exact=seen.is_exact)

    def close(self) -> None:
        """Give back what it took, committed or not."""
        self._domain.memory_bytes -= self._memory_bytes
        self._memory_bytes = 0
        self._seen.clear()

    def _check_counts(self) -> None:
        grown: dict[int, int] = {}
        for seen in self._seen.values():
            if seen.base is not None:
                grown[seen.base.owner] = grown.get(seen.base.owner, 0) - 1
            if seen.node is not None:
                grown[seen.node.owner] = grown.get(seen.node.owner, 0) + 1
        is_held = self._has_created and not self._domain.is_privileged
        for domid, count in grown.items():
            domain = self._store.domains.get(domid)
            if domain is None:
                raise XenstoreError("ENOMEM")  # its owner has gone meanwhile
            if domain.is_privileged or not (is_held and count):
                continue
            if domain.node_count + count >= self._store.quotas.node_count:
                raise XenstoreError("ENOSPC")

    def _charge(self, grown_bytes: int) -> None:
        try:
            self._store.check_memory(self._domain, grown_bytes)
        except XenstoreError:
            self._has_failed = True
            raise
        self._domain.memory_bytes += grown_bytes
        self._memory_bytes += grown_bytes


def _generation(node: Node | None) -> int:
    return -1 if node is None else node.generation
