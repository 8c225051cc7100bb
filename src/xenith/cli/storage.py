"""``xenith storage``: the disks on hosts as chains, orphans among them, and chains made shorter."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import App, Parameter

from xenith.cli.errors import exit_code
from xenith.cli.output import Output, cell, show
from xenith.core.errors import Invalid, NotFound, XenithError
from xenith.core.settings import load

app = App(help="Draw the disks on hosts as chains, find orphans, make chains shorter.")

Data = Annotated[str | None, Parameter(help="The cloud's data directory.")]
Host = Annotated[str | None, Parameter(help="One host alone.")]

#: Files in a chain at which a host refuses the next snapshot. Source: sm, LibVHD's chain limit.
DEPTH_MAX = 30
_DAY_S = 86400.0
_PATH = "/xenith/v1/storage"
#: Disks of a host that one request is about.
_ACT_MAX = 50


@app.command
def chains(
    *,
    host: Host = None,
    server: Annotated[str | None, Parameter(help="The host of this server, and its disks.")] = None,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Draw every disk under what it stands on, with its depth, its debt and how long it lasts."""
    found = asyncio.run(_get(data, host=host, server=server))
    if output == "json":
        show([_with_forecasts(one) for one in found], output)
        return
    for one in found:
        for line in draw(one, only=server):
            print(line)


@app.command
def orphans(
    *,
    host: Host = None,
    quarantine: Annotated[
        bool, Parameter(help="Mark them; undone by --release.", negative="")
    ] = False,
    release: Annotated[
        list[str] | None, Parameter(help="Take this disk's mark away.", negative="")
    ] = None,
    remove: Annotated[
        bool, Parameter(help="Remove those that are marked for long enough.", negative="")
    ] = False,
    older_than: Annotated[
        float, Parameter(help="Days in quarantine before a disk is removed.")
    ] = 7.0,
    data: Data = None,
    output: Output = "table",
) -> None:
    """List disks that nobody accounts for, with proof. Changes nothing unless it is told to.

    Each disk is looked at again just before it is marked, and again before it is removed.
    """
    if sum(map(bool, (quarantine, release, remove))) > 1:
        raise Invalid("--quarantine, --release and --remove are done one at a time")
    found = asyncio.run(_get(data, host=host, server=None))
    _say_silent(found)
    listed = list(_orphans(found))
    if not (quarantine or release or remove):
        show(_without_ids(listed), output)
        return
    act = "quarantine" if quarantine else "release" if release else "remove"
    chosen = _marked(found, release) if release else _choose(listed, act)
    show(asyncio.run(_act(data, act, chosen, older_than * _DAY_S)), output)


@app.command
def coalesce(
    *,
    host: Host = None,
    sr: Annotated[str | None, Parameter(help="One repository alone, by its uuid.")] = None,
    data: Data = None,
    output: Output = "table",
) -> int:
    """Have hosts merge what deleted disks left, wait for it, and tell what came of it.

    A repository that refuses is told of, and the others go on.
    """
    done, code = asyncio.run(_coalesce(data, host, sr))
    show(done, output)
    return code


# -- drawn


def draw(host: Mapping[str, Any], *, only: str | None = None) -> Iterator[str]:
    """Draw a host's repositories for people; with ``only`` the chains of one server."""
    yield f"host {cell(host['host'])}"
    if host["error"]:
        yield f"  does not answer: {cell(host['error'])}"
    for repository in host["repositories"]:
        yield (
            f"  {cell(repository['name'])} ({cell(repository['type'])})"
            f" {repository['uuid']}  {_size(repository['used'])} of {_size(repository['size'])}"
            f"  debt {_size(repository['debt'])}"
        )
        disks = {disk["uuid"]: disk for disk in repository["disks"]}
        shown = disks if only is None else _chains_of(only, disks)
        below = _children(shown)
        roots = [disk for disk in shown.values() if disk["parent"] not in shown]
        for at, root in enumerate(roots):
            yield from _branch(root, below, disks, "    ", is_last=at == len(roots) - 1)


def _branch(
    disk: Mapping[str, Any],
    below: Mapping[str, list[Mapping[str, Any]]],
    disks: Mapping[str, Mapping[str, Any]],
    margin: str,
    *,
    is_last: bool,
) -> Iterator[str]:
    # By a list and not by recursion: a chain may be as long as a host lets it be.
    left = [(disk, margin, is_last)]
    while left:
        one, margin, is_last = left.pop()
        yield f"{margin}{'└─' if is_last else '├─'} {_told(one, disks)}"
        inner = margin + ("   " if is_last else "│  ")
        children = below.get(one["uuid"], [])
        last = len(children) - 1
        left += [(child, inner, at == last) for at, child in reversed([*enumerate(children)])]


def _told(disk: Mapping[str, Any], disks: Mapping[str, Mapping[str, Any]]) -> str:
    what = cell(disk["name"]) if disk["kind"] == "other" else disk["kind"]
    if disk["of"]:
        what += f" of {cell(disk['of'])}"
    said = [what, f"{_size(disk['used'])} of {_size(disk['size'])}"]
    if disk["is_hidden"]:
        said.append("hidden")
    else:
        said.append(f"depth {disk['depth']}")
        said += [f"{forecast(disk, disks.values())}"] if disk["depth"] > 1 else []
    if disk["quarantined_at"] is not None:
        said.append(f"in quarantine since {_moment(disk['quarantined_at'])}")
    return f"{disk['uuid'][:8]} " + ", ".join(said)


def forecast(disk: Mapping[str, Any], disks: Iterator[Any] | Sequence[Any] | Any) -> str:
    """Say how many snapshots a disk can have yet, and until when at the rate of those it has.

    >>> forecast({"uuid": "a", "depth": 28}, [])
    '2 snapshots to the limit'
    """
    left = max(0, DEPTH_MAX - disk["depth"])
    said = f"{left} snapshots to the limit"
    times = sorted(
        time
        for one in disks
        if one["snapshot_of"] == disk["uuid"] and (time := _parse(one["snapshot_time"]))
    )
    if len(times) < 2 or times[-1] == times[0]:
        return said
    between_s = (times[-1] - times[0]).total_seconds() / (len(times) - 1)
    until = times[-1].timestamp() + between_s * left
    return f"{said}, reached {_moment(until)} if none is deleted"


def _children(disks: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for disk in disks.values():
        if disk["parent"] in disks and disk["parent"] != disk["uuid"]:
            found.setdefault(disk["parent"], []).append(disk)
    return found


def _chains_of(server: str, disks: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Give a server's disks and all that they stand on."""
    found: dict[str, Mapping[str, Any]] = {}
    for disk in disks.values():
        at: Mapping[str, Any] | None = disk if disk["of"] == server else None
        while at is not None and at["uuid"] not in found:
            found[at["uuid"]] = at
            at = disks.get(at["parent"])
    return found


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    raise AssertionError("unreachable")


def _parse(text: str) -> datetime | None:
    for form in ("%Y%m%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


# -- asked


async def _get(data: str | None, *, host: str | None, server: str | None) -> list[Any]:
    query = {"host": host, "server": server}
    asked = {name: value for name, value in query.items() if value is not None}
    async with _client(data) as api:
        found: list[Any] = (await api.get(_PATH, **asked))["hosts"]
        return found


def _client(data: str | None) -> Any:
    from xenith.dev.client import ApiClient  # noqa: PLC0415 - --help does not pay for it

    return ApiClient.of_directory(load(flags={"data": data}).data)


def _with_forecasts(host: dict[str, Any]) -> dict[str, Any]:
    for repository in host["repositories"]:
        for disk in repository["disks"]:
            if not disk["is_hidden"]:
                disk["forecast"] = forecast(disk, repository["disks"])
    return host


def _say_silent(found: Sequence[Mapping[str, Any]]) -> None:
    for host in found:
        if host["error"]:
            _say(f"{cell(host['host'])} does not answer: {cell(host['error'])}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _orphans(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for host in found:
        for repository in host["repositories"]:
            for disk in repository["disks"]:
                if not disk["proof"]:
                    continue
                at = disk["quarantined_at"]
                yield {
                    "host": host["host"],
                    "host_id": host["id"],
                    "sr": repository["name"],
                    "disk": disk["uuid"],
                    "name": disk["name"],
                    "kind": disk["kind"],
                    "mib": round(disk["used"] / 2**20, 1),
                    "quarantine": None if at is None else _moment(at),
                    "proof": "; ".join(disk["proof"]),
                }


def _without_ids(listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: one[name] for name in one if name != "host_id"} for one in listed]


def _marked(found: Sequence[Mapping[str, Any]], release: Sequence[str]) -> list[Mapping[str, Any]]:
    """Find disks in quarantine, also such as a VM has by now: their mark would count later."""
    chosen: list[Mapping[str, Any]] = [
        {"host": host["host"], "host_id": host["id"], "disk": disk["uuid"]}
        for host in found
        for repository in host["repositories"]
        for disk in repository["disks"]
        if disk["uuid"] in release and disk["quarantined_at"] is not None
    ]
    missing = set(release) - {one["disk"] for one in chosen}
    if missing:
        raise Invalid(f"not in quarantine: {', '.join(sorted(missing))}")
    return chosen


def _choose(listed: Sequence[Mapping[str, Any]], act: str) -> list[Mapping[str, Any]]:
    # What a cell removes by itself is none of ours.
    own = [one for one in listed if one["kind"] == "other"]
    return [one for one in own if (one["quarantine"] is None) == (act == "quarantine")]


async def _act(
    data: str | None, act: str, chosen: Sequence[Mapping[str, Any]], older_than_s: float
) -> list[dict[str, Any]]:
    by_host: dict[tuple[str, str], list[str]] = {}
    for one in chosen:
        by_host.setdefault((one["host"], one["host_id"]), []).append(one["disk"])
    done: list[dict[str, Any]] = []
    async with _client(data) as api:
        for (host, host_id), disks in by_host.items():
            for first in range(0, len(disks), _ACT_MAX):
                part = disks[first : first + _ACT_MAX]
                body = {"host": host_id, "do": act, "disks": part, "older_than_s": older_than_s}
                for one in (await api.post(f"{_PATH}/orphans", body))["disks"]:
                    freed = one.pop("freed")
                    done.append({"host": host, **one, "freed_mib": round(freed / 2**20, 1)})
    return done


async def _coalesce(
    data: str | None, host: str | None, sr: str | None
) -> tuple[list[dict[str, Any]], int]:
    found = await _get(data, host=host, server=None)
    _say_silent(found)
    chosen = [
        (one, repository)
        for one in found
        for repository in one["repositories"]
        if sr in (None, repository["uuid"])
    ]
    if sr is not None and not chosen:
        raise NotFound(f"no host that answers has a repository {sr}")
    done: list[dict[str, Any]] = []
    code = 0
    async with _client(data) as api:
        for one, repository in chosen:
            try:
                before, after = await _shorten(api, {"host": one["id"], "sr": repository["uuid"]})
            except XenithError as error:
                code = exit_code(error)
                _say(f"{cell(one['host'])}, {cell(repository['name'])}: {cell(error.message)}")
                continue
            done.append(
                {
                    "host": one["host"],
                    "sr": repository["name"],
                    "disks": f"{before['disks']} → {after['disks']}",
                    "deepest": f"{before['deepest']} → {after['deepest']}",
                    "used": f"{_size(before['used'])} → {_size(after['used'])}",
                    "debt": f"{_size(before['debt'])} → {_size(after['debt'])}",
                }
            )
    return done, code


async def _shorten(api: Any, body: dict[str, str]) -> tuple[Any, Any]:
    """Have one repository make its chains shorter until it has no more to do; before and after."""
    told = await api.post(f"{_PATH}/collect", body)
    before = told["before"]
    while not told["is_done"]:
        told = await api.post(f"{_PATH}/collect", body)
    return before, told["after"]
