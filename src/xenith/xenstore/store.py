"""The store: one flat map of paths to nodes, the domains there are, and who watches.

Nodes never change, so a transaction is a second map of what it has looked at and what it would
write (``transaction.py``); both are a *view*, on which the operations work alike. Every change
takes the next generation, and a transaction's commit compares generations.

Not a part of it: sockets, frames, time. Source: xen, docs/misc/xenstore.txt, and what xenstored
4.17 does where that is silent; the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenith.xenstore import paths
from xenith.xenstore.edits import remove_tree
from xenith.xenstore.errors import XenstoreError
from xenith.xenstore.nodes import READ, Node, Permission
from xenith.xenstore.quotas import Quotas

if TYPE_CHECKING:
    from xenith.xenstore.connection import Connection

CONTROL_DOMID = 0
INTRODUCED, RELEASED = "@introduceDomain", "@releaseDomain"


@dataclass(eq=False)
class Domain:
    """What is known of a domain, and what it has."""

    domid: int
    #: Nodes that are older do not mean this domain by its number.
    generation: int
    is_introduced: bool = False
    connection: Connection | None = None
    node_count: int = 0
    memory_bytes: int = 0

    @property
    def is_privileged(self) -> bool:
        """Whether neither permissions nor quotas hold it."""
        return self.domid == CONTROL_DOMID


class Store:
    """A whole xenstore."""

    def __init__(
        self,
        quotas: Quotas | None = None,
        *,
        on_guest_change: Callable[[int], None] = lambda _domid: None,
    ) -> None:
        self.quotas = quotas or Quotas()
        #: Told the domid when a domain other than the control domain has changed something.
        self.on_guest_change = on_guest_change
        self.generation = 0
        self.domains = {CONTROL_DOMID: Domain(CONTROL_DOMID, 0, is_introduced=True)}
        #: Those that have watches, in the order in which they are told.
        self.watching: dict[Connection, None] = {}
        nobody = (Permission(CONTROL_DOMID, 0),)
        #: Who may hear of domains that come and go.
        self.special_permissions: dict[str, tuple[Permission, ...]] = {
            INTRODUCED: nobody,
            RELEASED: nobody,
        }
        self._nodes = {
            "/": Node(b"", nobody, ("tool",)),
            "/tool": Node(b"", nobody, ("xenstored",)),
            "/tool/xenstored": Node(b"", nobody),
        }
        self.domains[CONTROL_DOMID].node_count = len(self._nodes)

    # -- a view

    def find(self, path: str) -> Node | None:
        """Find a node, with permissions void that were a former domain's."""
        node = self._nodes.get(path)
        if node is None or len(node.permissions) == 1:
            return node
        first, *others = node.permissions
        kept = tuple(self._outlived(entry, node.generation) for entry in others)
        return node._replace(permissions=(first, *kept))

    def put(self, path: str, node: Node, *, is_forced: bool = False) -> None:
        """Write a node."""
        old = self._nodes.get(path)
        owner = None if is_forced else self.domains.get(node.owner)
        if owner is not None and not owner.is_privileged:
            grown = node.size_bytes + len(path)
            if old is not None and old.owner == node.owner:
                grown -= old.size_bytes + len(path)
            self.check_memory(owner, grown)
        self._count(path, old, -1)
        self.generation += 1
        self._nodes[path] = node._replace(generation=self.generation)
        self._count(path, node, 1)

    def remove(self, path: str) -> None:
        """Remove a node."""
        self._count(path, self._nodes.pop(path), -1)
        self.generation += 1

    def fire(
        self,
        path: str,
        node: Node | None = None,
        *,
        before: tuple[Permission, ...] = (),
        is_exact: bool = False,
    ) -> None:
        """Tell watches of a change."""
        for connection in tuple(self.watching):
            if self._may_hear(connection, path, node, before):
                connection.hear(path, is_exact=is_exact)

    def fail(self) -> None:
        """Have nothing fail: operations change the store only when they can do it whole."""

    # -- domains

    def create_domain(self, domid: int) -> Domain:
        """Take note of a domain that exists; it may own nodes from now on."""
        if domid not in self.domains:
            self.generation += 1
            self.domains[domid] = Domain(domid, self.generation)
        return self.domains[domid]

    def introduce(self, domid: int) -> None:
        """Begin to serve a domain."""
        domain = self.create_domain(domid)
        if not domain.is_introduced:
            domain.is_introduced = True
            self._fire_special(INTRODUCED)

    def release(self, domid: int) -> None:
        """Let go of a domain that has ended, with all that it owns and what lies below that."""
        domain = self.domains[domid]
        if domain.connection is not None:
            domain.connection.close()
        self._remove_owned(domain)
        del self.domains[domid]
        for other in self.domains.values():
            if other.connection is not None and other.connection.target is domain:
                other.connection.target = None
        for name, permissions in self.special_permissions.items():
            first, *others = permissions
            owner = first._replace(domid=CONTROL_DOMID) if first.domid == domid else first
            kept = (entry for entry in others if entry.domid != domid)
            self.special_permissions[name] = (owner, *kept)
        if domain.is_introduced:
            self._fire_special(RELEASED)

    def check_memory(self, domain: Domain, grown_bytes: int) -> None:
        """Refuse a domain more memory than it may have.

        Raises:
            XenstoreError: ENOMEM.
        """
        if domain.is_privileged or grown_bytes <= 0:
            return
        if domain.memory_bytes + grown_bytes >= self.quotas.memory_bytes:
            raise XenstoreError("ENOMEM")

    def check_whole(self) -> list[str]:
        """Tell what is wrong with the tree; nothing ever is."""
        wrong = []
        counts = dict.fromkeys(self.domains, 0)
        for path, node in self._nodes.items():
            counts[node.owner] = counts.get(node.owner, 0) + 1
            wrong += [
                f"{path} lists {name}, which is not there"
                for name in node.children
                if paths.child(path, name) not in self._nodes
            ]
            if path != "/" and paths.name(path) not in self._children(paths.parent(path)):
                wrong.append(f"{path} is listed nowhere")
        for domid, count in counts.items():
            domain = self.domains.get(domid)
            if domain is None or domain.node_count != count:
                wrong.append(f"domain {domid} has {count} nodes, which is not what is counted")
        return wrong

    def _children(self, path: str) -> tuple[str, ...]:
        node = self._nodes.get(path)
        return () if node is None else node.children

    def _outlived(self, entry: Permission, generation: int) -> Permission:
        domain = self.domains.get(entry.domid)
        is_known = domain is not None and domain.generation <= generation
        return entry if entry.is_void or is_known else entry._replace(is_void=True)

    def _count(self, path: str, node: Node | None, sign: int) -> None:
        owner = None if node is None else self.domains.get(node.owner)
        if node is None or owner is None:
            return
        owner.node_count += sign
        if not owner.is_privileged:
            owner.memory_bytes += sign * (node.size_bytes + len(path))

    def _remove_owned(self, domain: Domain) -> None:
        # Above before below, and children in order, as they are met on a walk.
        waiting = ["/"]
        while waiting and domain.node_count:
            path = waiting.pop()
            node = self._nodes[path]
            if node.owner == domain.domid:
                remove_tree(self, path)
            else:
                waiting += [paths.child(path, name) for name in reversed(node.children)]

    def _fire_special(self, name: str) -> None:
        for connection in tuple(self.watching):
            if connection.access_to(self.special_permissions[name]) & READ:
                connection.hear(name, is_exact=True)

    def _may_hear(
        self,
        connection: Connection,
        path: str,
        node: Node | None,
        before: tuple[Permission, ...],
    ) -> bool:
        """Tell whether it can read the node, could until now, or can read what it lies in."""
        if before and connection.access_to(before) & READ:
            return True
        node = node or self.find(path)
        if node is None:
            return False
        above = self.find(paths.parent(path))
        readers = [node.permissions] if above is None else [node.permissions, above.permissions]
        return any(connection.access_to(permissions) & READ for permissions in readers)
