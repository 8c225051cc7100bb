"""What lies in a repository: each disk, what it stands on, what stands on it, what it takes.

It is read anew each time: the directory is the one truth, and strangers may lay files into it.
Nothing is left out for being damaged, for then its parents would look like garbage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from xenith.core.ids import is_uuid
from xenith.vhd.chain import Chain
from xenith.vhd.files import Files
from xenith.vhd.tree import SUFFIX, Entry, scan

_UUID_LENGTH = 36


@dataclass(frozen=True, kw_only=True)
class Vdi:
    """One disk. ``error`` says why it cannot be used; sizes are 0 where its file cannot be read.

    ``depth`` counts the files of its chain, itself included; ``chain_bytes`` is what they take.
    """

    uuid: str
    size_bytes: int
    used_bytes: int
    chain_bytes: int
    depth: int
    is_hidden: bool
    parent: str | None = None
    children: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All disks by uuid; ``strangers`` are VHDs that are not named by one."""

    vdis: dict[str, Vdi]
    strangers: tuple[str, ...] = ()
    #: Files of which not even the parent is known. While there is one, nothing is surely unused.
    unreadable: tuple[str, ...] = ()

    def subtree(self, uuid: str) -> Iterator[Vdi]:
        """Give a disk and all that stands on it."""
        # Disks that stand on each other in a circle are met once.
        seen, left = {uuid}, [uuid]
        while left:
            vdi = self.vdis[left.pop()]
            yield vdi
            new = [one for one in vdi.children if one not in seen]
            seen.update(new)
            left.extend(new)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan found beside what was known. Garbage is in none of these.

    ``damaged`` says by uuid why a disk cannot be used; it is among ``vdis`` too.
    """

    vdis: dict[str, Vdi]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    damaged: dict[str, str]
    strangers: tuple[str, ...]


def file_of(uuid: str) -> str:
    """Name a disk's file.

    >>> file_of("a")
    'a.vhd'
    """
    return uuid + SUFFIX


def is_disk(name: str) -> bool:
    """Tell whether a name is a disk's: a UUID as it is written, in small letters.

    >>> is_disk("00000000-0000-4000-8000-00000000000A.vhd"), is_disk("x.vhd")
    (False, False)
    """
    uuid = name.removesuffix(SUFFIX)
    is_written = len(uuid) == _UUID_LENGTH and uuid == uuid.lower() and is_uuid(uuid)
    return name.endswith(SUFFIX) and is_written


def take(files: Files, used: dict[str, int], *, depth_max: int) -> Inventory:
    """Read the heads of all files of a repository; ``used`` is what each takes."""
    tree = scan(files)
    parents = {name: _find_parent(tree, entry) for name, entry in tree.items()}
    children: dict[str, list[str]] = {}
    for name, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(name)

    def look(name: str) -> Vdi:
        chain, error = _chain(tree, parents, name, depth_max)
        entry, parent = tree[name], parents[name]
        return Vdi(
            uuid=name.removesuffix(SUFFIX),
            size_bytes=entry.footer.size_bytes if entry.footer else 0,
            used_bytes=used.get(name, 0),
            chain_bytes=sum(used.get(one, 0) for one in chain),
            depth=len(chain),
            is_hidden=entry.footer is not None and entry.footer.hidden,
            parent=parent.removesuffix(SUFFIX) if parent else None,
            children=tuple(one.removesuffix(SUFFIX) for one in children.get(name, ())),
            error=error,
        )

    # Strangers are nodes of the tree as all others: what they stand on is not garbage.
    return Inventory(
        vdis={vdi.uuid: vdi for vdi in map(look, tree)},
        strangers=tuple(name for name in tree if not is_disk(name)),
        unreadable=tuple(name for name, entry in tree.items() if entry.footer is None),
    )


def list_chain(chain: Chain, used: dict[str, int]) -> list[Vdi]:
    """Tell of the links of an open chain, the leaf first; of children, only those in it."""
    names = [image.name for image in chain.images]
    uuids = [name.removesuffix(SUFFIX) for name in names]
    return [
        Vdi(
            uuid=uuids[at],
            size_bytes=image.size_bytes,
            used_bytes=used.get(image.name, 0),
            chain_bytes=sum(used.get(name, 0) for name in names[at:]),
            depth=len(names) - at,
            is_hidden=image.footer.hidden,
            parent=uuids[at + 1] if at + 1 < len(uuids) else None,
            children=tuple(uuids[at - 1 : at]) if at else (),
        )
        for at, image in enumerate(chain.images)
    ]


def compare(found: Inventory, known: Collection[str]) -> Scan:
    """Hold what lies there against the uuids that are known of."""
    vdis = {
        uuid: vdi
        for uuid, vdi in found.vdis.items()
        if is_disk(file_of(uuid)) and (vdi.children or not vdi.is_hidden)
    }
    return Scan(
        vdis=vdis,
        new=tuple(uuid for uuid in vdis if uuid not in known),
        gone=tuple(uuid for uuid in known if uuid not in vdis),
        damaged={uuid: vdi.error for uuid, vdi in vdis.items() if vdi.error},
        strangers=found.strangers,
    )


def _find_parent(tree: dict[str, Entry], entry: Entry) -> str | None:
    for name in entry.parent_names:
        footer = tree[name].footer if name in tree else None
        if footer is not None and footer.uuid == entry.parent_uuid:
            return name
    return None


def _chain(
    tree: dict[str, Entry], parents: dict[str, str | None], name: str, depth_max: int
) -> tuple[list[str], str]:
    chain: list[str] = []
    at: str | None = name
    while at is not None:
        entry = tree[at]
        if len(chain) == depth_max:
            return chain, f"its chain is deeper than {depth_max} files, or loops"
        chain.append(at)
        if entry.footer is None:
            return chain, f"{at}: {entry.error}"
        at = parents[at]
        if at is None and entry.parent_uuid is not None:
            wanted = ", ".join(entry.parent_names) or "elsewhere"
            return chain, f"{entry.name}: its parent {entry.parent_uuid} ({wanted}) is not here"
    return chain, ""
