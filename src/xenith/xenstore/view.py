"""What operations read and change: the store itself, or a transaction on it."""

from __future__ import annotations

from typing import Protocol

from xenith.xenstore.nodes import Node, Permission


class View(Protocol):
    """A tree of nodes, by path."""

    def find(self, path: str) -> Node | None:
        """Find a node."""

    def put(self, path: str, node: Node, *, is_forced: bool = False) -> None:
        """Write a node, whatever the quotas say if forced; what lies above it is the caller's."""

    def remove(self, path: str) -> None:
        """Remove a node; what lies above and below it is the caller's."""

    def fire(
        self,
        path: str,
        node: Node | None = None,
        *,
        before: tuple[Permission, ...] = (),
        is_exact: bool = False,
    ) -> None:
        """Tell watches of a change, once it counts; only those of this very path if exact.

        ``before`` is what it could be read by until now.
        """

    def fail(self) -> None:
        """Have a transaction end without effect, since a change was made in part."""
