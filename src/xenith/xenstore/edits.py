"""Changes of more than one node: making what is missing above one, removing what lies below it."""

from __future__ import annotations

from collections.abc import Mapping

from xenith.xenstore import paths
from xenith.xenstore.nodes import Node, Permission
from xenith.xenstore.view import View


def missing_above(view: View, path: str) -> tuple[str, Node, list[str]]:
    """Find the nearest node above, its path, and what must be made, the path itself first."""
    missing = []
    while True:
        missing.append(path)
        path = paths.parent(path)
        node = view.find(path)
        if node is not None:
            return path, node, missing
        assert path != "/", "the root is always there"


def remove_tree(view: View, path: str) -> None:
    """Remove a node and all below it, and tell watches of each, from below.

    What lies below tells those alone who watch that very path: they who watch one above hear of
    the whole.
    """
    above = paths.parent(path)
    view.find(above)
    found: dict[str, Node] = {}
    waiting = [path]
    while waiting:
        at = waiting.pop()
        node = view.find(at)
        assert node is not None, "what is listed is there"
        found[at] = node
        waiting += [paths.child(at, name) for name in reversed(node.children)]
    for at in _from_below(path, found):
        view.remove(at)
        view.fire(at, found[at], before=found[at].permissions, is_exact=at != path)
    node = view.find(above)
    assert node is not None, "what has children is there"
    gone = paths.name(path)
    kept = tuple(name for name in node.children if name != gone)
    view.put(above, node._replace(children=kept), is_forced=True)


def plant(
    view: View,
    path: str,
    *,
    values: Mapping[str, bytes],
    permissions: Mapping[str, tuple[Permission, ...]],
) -> None:
    """Make a tree that is not there, below a node that is, in one stroke and past all quotas.

    ``values`` and ``permissions`` go by paths below its own; the root's, the empty one's,
    permissions must be there, and what has none has those of what it lies in.
    """
    children: dict[str, list[str]] = {"": []}
    allowed = dict(permissions)

    for wanted in filter(None, (*permissions, *values)):
        above = ""
        for name in wanted.split("/"):
            below = f"{above}/{name}" if above else name
            if below not in children:
                children[above].append(name)
                children[below] = []
                allowed.setdefault(below, allowed[above])
            above = below
    for below, names in children.items():
        node = Node(values.get(below, b""), allowed[below], tuple(names))
        view.put(f"{path}/{below}" if below else path, node, is_forced=True)
    root = view.find(paths.parent(path))
    assert root is not None, "a tree is planted where something is"
    listed = root._replace(children=(*root.children, paths.name(path)))
    view.put(paths.parent(path), listed, is_forced=True)
    for below in children:
        view.fire(f"{path}/{below}" if below else path)


def _from_below(path: str, found: dict[str, Node]) -> list[str]:
    order = []
    waiting = [path]
    while waiting:
        at = waiting.pop()
        order.append(at)
        waiting += [paths.child(at, name) for name in found[at].children]
    return order[::-1]
