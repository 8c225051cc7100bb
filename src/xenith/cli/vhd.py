"""``xenith vhd``: looks at disks as chains of VHDs, makes, mends and converts them.

A file is named by its path; its parents are looked for in its own directory and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from xenith.cli.output import Output, cell, show, table
from xenith.cli.vhd_convert import convert, diff, pack, unpack
from xenith.cli.vhd_paths import repository, size_in_bytes
from xenith.core.clock import SystemClock
from xenith.core.errors import Conflict, Invalid
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.chain import Run, open_chain
from xenith.vhd.coalesce import coalesce as merge
from xenith.vhd.coalesce import recover
from xenith.vhd.create import create_differencing, create_dynamic, create_fixed
from xenith.vhd.files import Directory
from xenith.vhd.footer import DIFFERENCING, DYNAMIC, EPOCH_S, FIXED, SECTOR_BYTES
from xenith.vhd.image import open_image
from xenith.vhd.repair import check as find_faults
from xenith.vhd.repair import repair as mend
from xenith.vhd.tree import Entry, scan

app = App(help="Look at disks as chains of VHDs, make, mend and convert them.")
for command in (convert, diff, pack, unpack):
    app.command(command)

_KINDS = {FIXED: "fixed", DYNAMIC: "dynamic", DIFFERENCING: "differencing"}


@app.command
def info(path: Path, *, output: Output = "table") -> None:
    """Show what a VHD says of itself."""
    with repository(path) as files:
        image = open_image(files, path.name)
        try:
            footer, header = image.footer, image.header
            shown: dict[str, Any] = {
                "name": path.name,
                "kind": _KINDS[footer.kind],
                "size_bytes": footer.size_bytes,
                "file_bytes": image.file.size(),
                "uuid": str(footer.uuid),
                "made_at": datetime.fromtimestamp(EPOCH_S + footer.timestamp_s, UTC).isoformat(),
                "creator": footer.creator.decode("ascii", "backslashreplace").strip("\0 "),
                "is_hidden": footer.hidden,
                "has_sound_footer": image.footer_is_sound,
            }
            if header is not None:
                shown |= {
                    "block_bytes": header.block_bytes,
                    "blocks": len(image.blocks()),
                    "blocks_max": header.entries,
                }
            if header is not None and image.has_parent:
                shown |= {"parent": header.parent_name, "parent_uuid": str(header.parent_uuid)}
        finally:
            image.close()
    show(shown, output)


@app.command
def check(path: Path, *, output: Output = "table") -> None:
    """List what is wrong with a VHD and with all that it stands on; errors end with code 4.

    Raises:
        Conflict: something is wrong that makes the disk unsafe to use.
    """
    with repository(path) as files:
        found = find_faults(files, path.name, clock=SystemClock())
    rows = [{"name": one.name, "is_error": one.is_error, "finding": one.text} for one in found]
    if rows or output == "json":
        show(rows, output)
    if any(one.is_error for one in found):
        raise Conflict(
            f"{path.name} is not safe to use.",
            next_step="xenith vhd repair puts right what the file still knows",
        )
    if output != "json":
        print(f"{cell(path.name)} is sound")


@app.command
def repair(path: Path, *, accept_loss: bool = False, output: Output = "table") -> None:
    """Put right what a file still knows; --accept-loss makes blocks that were cut off holes."""
    with repository(path) as files:
        done = mend(files, path.name, accept_loss=accept_loss)
    lost = [{"first_byte": first, "end_byte": end} for first, end in done.lost]
    show({"name": path.name, "done": list(done.done), "lost": lost}, output)


@app.command(name="map")
def map_(path: Path, *, output: Output = "table") -> None:
    """Map a disk: which file of its chain has which bytes. What none has is zero, and not told."""
    with repository(path) as files:
        chain = open_chain(files, path.name)
        try:
            names = [image.name for image in chain.images]
            rows = [_row(run, names) for run in chain.runs() if run.link is not None]
        finally:
            chain.close()
    show(rows, output)


def _row(run: Run, names: Sequence[str]) -> dict[str, Any]:
    assert run.link is not None, "a file has it"
    return {
        "first_byte": run.sector * SECTOR_BYTES,
        "bytes": run.length * SECTOR_BYTES,
        "file": names[run.link],
        "at": run.place,
    }


@app.command
def create(
    path: Path,
    size: Annotated[str, Parameter(help="As in 512M or 20G; with --parent 0 for its size.")] = "0",
    *,
    kind: Literal["dynamic", "fixed"] = "dynamic",
    parent: Annotated[
        Path | None, Parameter(help="A VHD in the same directory to stand on.")
    ] = None,
) -> None:
    """Make an empty VHD, or one that holds the differences to a parent."""
    world = World(clock=SystemClock(), ids=Ids())
    size_bytes = size_in_bytes(size)
    with repository(path) as files:
        if parent is not None:
            if parent.absolute().parent != path.absolute().parent:
                raise Invalid(f"{parent} is not in the directory of {path.name}.")
            create_differencing(
                files, path.name, parent=parent.name, world=world, size_bytes=size_bytes or None
            )
        elif kind == "fixed":
            create_fixed(files, path.name, size_bytes=size_bytes, world=world)
        else:
            create_dynamic(files, path.name, size_bytes=size_bytes, world=world)


@app.command
def coalesce(path: Path) -> None:
    """Merge a VHD into its parent, where nobody writes to either.

    A leaf's parent takes its name; what stood on a hidden VHD stands on its parent then. What a
    crash left in the middle, in this directory, is first brought to its end.
    """
    with repository(path) as files:
        for note in recover(files):
            print(f"carried on: {cell(note)}")
        merge(files, path.name)


@app.command
def tree(directory: Path = Path(), *, output: Output = "table") -> None:
    """Draw what stands on what in a directory."""
    files = Directory(directory)
    try:
        found = scan(files)
    finally:
        files.close()
    if output == "json":
        show([_entry(found, name) for name in sorted(found)], output)
        return
    rows = draw(found)
    print(table(rows))


def draw(found: dict[str, Entry]) -> list[dict[str, Any]]:
    """Lay the files of a repository out as rows, each below what it stands on."""
    known = {one.footer.uuid for one in found.values() if one.footer is not None}
    rows: list[dict[str, Any]] = []
    drawn: set[str] = set()

    def add(name: str, indent: str, branch: str) -> None:
        one = found[name]
        footer = one.footer
        note = one.error
        if not note and one.parent_uuid is not None and one.parent_uuid not in known:
            note = f"its parent {one.parent_uuid} is not here"
        rows.append(
            {
                "file": indent + branch + name,
                "kind": _KINDS[footer.kind] if footer else "damaged",
                "size_mib": footer.size_bytes // MIB if footer else None,
                "file_mib": round(one.file_bytes / MIB, 1),
                "is_hidden": footer.hidden if footer else None,
                "note": note,
            }
        )
        drawn.add(name)
        below = [each for each in _standing_on(found, one) if each not in drawn]
        inner = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for child in below:
            add(child, inner, "└─ " if child == below[-1] else "├─ ")

    for name in sorted(found):
        one = found[name]
        if one.parent_uuid is None or one.parent_uuid not in known:
            add(name, "", "")
    for name in sorted(found):
        # Its parents lead to itself.
        if name not in drawn:
            add(name, "", "")
    return rows


def _standing_on(found: dict[str, Entry], parent: Entry) -> list[str]:
    if parent.footer is None:
        return []
    uuid = parent.footer.uuid
    return sorted(
        one.name
        for one in found.values()
        if one.parent_uuid == uuid and parent.name in one.parent_names
    )


def _entry(found: dict[str, Entry], name: str) -> dict[str, Any]:
    one = found[name]
    return {
        "name": name,
        "kind": _KINDS[one.footer.kind] if one.footer else "damaged",
        "size_bytes": one.footer.size_bytes if one.footer else None,
        "file_bytes": one.file_bytes,
        "uuid": str(one.footer.uuid) if one.footer else None,
        "parent_uuid": str(one.parent_uuid) if one.parent_uuid else None,
        "is_hidden": bool(one.footer and one.footer.hidden),
        "error": one.error,
    }
