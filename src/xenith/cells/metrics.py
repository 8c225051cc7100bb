"""What a node measures of itself, as a table of metrics and a reading of them at one moment.

Nothing is kept for this: counters are those that nodes and links have anyway, and all else is read
when somebody asks. Cells and neighbours are named as operators name them. No project, user or
server is in it, by name or by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from xenith.cells.capacity import Digest
from xenith.cells.changes import Place
from xenith.cells.intents import count_open
from xenith.cells.link import Link
from xenith.cells.node import Node
from xenith.core.errors import Unavailable
from xenith.core.ids import CellId
from xenith.core.units import GIB, MIB
from xenith.db import Tx


class Metric(msgspec.Struct, frozen=True):
    """One metric: what it is called, what it means, and what tells its values apart."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True):
    """One value of a metric, with its labels in the metric's order."""

    metric: str
    labels: tuple[str, ...]
    value: float


_OF_CELL = ("cell",)
_OF_LINK = ("cell", "peer")
_OF_CLASS = ("cell", "zone", "flavor_classes", "dedicated")

#: Metrics of a cell, by what `Node.counts` calls them.
NODE_COUNTS: dict[str, Metric] = {
    name: Metric(f"xenith_{named}_total", "counter", meaning, _OF_CELL)
    for name, named, meaning in (
        ("replayed", "intents_replayed", "Intents that came again and were answered from rows."),
        ("sent_again", "intents_sent_again", "Intents that had no answer in time."),
        ("moved", "builds_moved", "Builds given to another cell as theirs did not answer."),
        ("past_deadline", "builds_past_deadline", "Builds refused as they came too late."),
        ("refused_intents", "intents_refused", "Intents that could not be followed."),
        ("failed_intents", "intents_failed", "Intents that not even a refusal was written for."),
        ("refused_verdicts", "verdicts_refused", "Verdicts that were not the child's to give."),
        ("failed_verdicts", "verdicts_failed", "Verdicts that could not be taken over."),
        ("changes_applied", "changes_applied", "Rows taken over from cells below."),
        (
            "epochs_begun",
            "epochs_begun",
            "Times that changes are numbered anew: commits were lost.",
        ),
        ("buckets_differed", "buckets_differed", "Groups of rows found unlike their origin's."),
        ("rows_repaired", "rows_repaired", "Rows made as their origin has them."),
    )
}
#: Metrics of a link, by what `Link.counts` calls them; those refused have their reason as a label.
LINK_COUNTS: dict[str, Metric] = {
    name: Metric(f"xenith_link_{named}_total", "counter", meaning, _OF_LINK)
    for name, named, meaning in (
        ("sent", "frames_sent", "Frames that the bus took."),
        ("unsent", "frames_unsent", "Frames that the bus did not take in time."),
        ("received", "frames_received", "Frames of the neighbour that were good."),
        ("old_session", "frames_of_old_sessions", "Frames of an earlier run of either side."),
        ("no_credit", "messages_without_credit", "Messages not sent as too many waited."),
        ("too_long", "messages_too_long", "Messages not sent as no frame holds them."),
        ("overflow", "messages_overflowed", "Messages dropped as too many waited to be handled."),
        ("failed", "messages_failed", "Messages whose handling failed; they come again."),
    )
}
_REFUSED = "refused_"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("xenith_cell_info", "gauge", "1; gives the id of a cell.", ("cell", "id", "kind")),
        Metric("xenith_topology_version", "gauge", "The topology that it follows.", _OF_CELL),
        Metric("xenith_database_up", "gauge", "1 when the cell's rows can be read.", _OF_CELL),
        Metric("xenith_hosts", "gauge", "Hosts of the cell and of all below it.", _OF_CELL),
        Metric("xenith_hosts_up", "gauge", "Those of them that answer.", _OF_CELL),
        Metric("xenith_claimed_servers", "gauge", "Servers that hold room on them.", _OF_CELL),
        Metric("xenith_free_hosts", "gauge", "Hosts with room, of each class.", _OF_CLASS),
        Metric("xenith_free_memory_bytes", "gauge", "Memory free on them.", _OF_CLASS),
        Metric("xenith_free_vcpus", "gauge", "Virtual processors free on them.", _OF_CLASS),
        Metric("xenith_free_disk_bytes", "gauge", "Disk free on them.", _OF_CLASS),
        Metric(
            "xenith_decisions_total", "counter", "Builds accepted, or given to a child.", _OF_CELL
        ),
        Metric(
            "xenith_intents_open",
            "gauge",
            "Intents without a last word, by the child that has them; an empty peer: undecided.",
            _OF_LINK,
        ),
        Metric("xenith_changes_total", "counter", "Changes of the cell's own rows.", _OF_CELL),
        Metric("xenith_epoch", "gauge", "The epoch that these are numbered in.", _OF_CELL),
        Metric(
            "xenith_origin_age_seconds",
            "gauge",
            "Seconds since the rows of a cell below were known to be whole.",
            ("cell", "origin"),
        ),
        Metric(
            "xenith_origins_unheard",
            "gauge",
            "Cells below whose rows were not known to be whole since the start.",
            _OF_CELL,
        ),
        Metric("xenith_link_open", "gauge", "1 when both sides heard each other.", _OF_LINK),
        Metric("xenith_link_alive", "gauge", "1 when the child answers pings.", _OF_LINK),
        Metric("xenith_link_version", "gauge", "The protocol that both speak; 0: none.", _OF_LINK),
        Metric(
            "xenith_link_refused_total",
            "counter",
            "Frames and messages of the neighbour that were not accepted.",
            (*_OF_LINK, "reason"),
        ),
        *NODE_COUNTS.values(),
        *LINK_COUNTS.values(),
    )
}


async def measure(node: Node) -> list[Sample]:
    """Read all that a node measures."""

    def read(tx: Tx) -> tuple[Place, dict[str, int]]:
        return node.changes.place(tx, node.cell_id), count_open(tx)

    own = (name_of(node, node.cell_id),)
    found = [*_of_node(node, own), *_of_links(node, own)]
    try:
        place, opened = await node.db.read(read)
    except Unavailable:
        # What is in memory is told all the same: that is when it is looked at.
        return [*found, Sample("xenith_database_up", own, 0)]
    return [*found, Sample("xenith_database_up", own, 1), *_of_rows(node, own, place, opened)]


def name_of(node: Node, cell_id: str) -> str:
    """Give the name of a cell; the id of one that is not in the topology any more."""
    entry = node.topology.find(CellId(cell_id))
    return cell_id if entry is None else entry.name


def _of_rows(
    node: Node, own: tuple[str], place: Place, opened: Mapping[str, int]
) -> Iterator[Sample]:
    yield Sample("xenith_changes_total", own, place.number)
    yield Sample("xenith_epoch", own, place.epoch)
    for peer in sorted({"", *node.children, *opened}):
        labels = (*own, name_of(node, peer) if peer else "")
        yield Sample("xenith_intents_open", labels, opened.get(peer, 0))


def _of_node(node: Node, own: tuple[str]) -> Iterator[Sample]:
    digest = node.digest(0)
    kind = "leaf" if node.is_leaf else "router"
    yield Sample("xenith_cell_info", (*own, node.cell_id, kind), 1)
    yield Sample("xenith_topology_version", own, node.topology.version)
    yield Sample("xenith_hosts", own, digest.host_count)
    yield Sample("xenith_hosts_up", own, digest.hosts_up_count)
    yield Sample("xenith_claimed_servers", own, digest.server_count)
    yield Sample("xenith_decisions_total", own, node.routing.decisions)
    below = node.topology.descendants(node.cell_id)
    ages = {origin: age_s for origin, age_s in node.ages().items() if origin in below}
    for origin, age_s in sorted(ages.items()):
        labels = (*own, name_of(node, origin))
        yield Sample("xenith_origin_age_seconds", labels, round(age_s, 3))
    yield Sample("xenith_origins_unheard", own, len(below) - len(ages))
    for name, metric in NODE_COUNTS.items():
        yield Sample(metric.name, own, node.counts[name])
    yield from _of_classes(own, digest)


def _of_classes(own: tuple[str], digest: Digest) -> Iterator[Sample]:
    """Add up what is free, of classes that differ in no more than their projects or capabilities.

    Which projects hosts are dedicated to is not for everyone who may read the page.
    """
    sums: dict[tuple[str, str, str], list[int]] = {}
    for each in digest.classes:
        key = (
            each.key.zone,
            ",".join(each.key.flavor_classes),
            "yes" if each.key.projects else "no",
        )
        found = sums.setdefault(key, [0, 0, 0, 0])
        for ram_mib, vcpus, disk_gib, count in each.bins:
            parts = (count, ram_mib * MIB * count, vcpus * count, disk_gib * GIB * count)
            found[:] = [total + part for total, part in zip(found, parts, strict=True)]
    names = (
        "xenith_free_hosts",
        "xenith_free_memory_bytes",
        "xenith_free_vcpus",
        "xenith_free_disk_bytes",
    )
    for key, found in sorted(sums.items()):
        for name, total in zip(names, found, strict=True):
            yield Sample(name, (*own, *key), total)


def _of_links(node: Node, own: tuple[str]) -> Iterator[Sample]:
    for peer, child in node.children.items():
        is_alive = not node.chooser.is_dead(peer)
        labels = (*own, name_of(node, peer))
        yield Sample("xenith_link_alive", labels, is_alive)
        yield from _of_link(labels, child.link)
    for peer, parent in node.parents.items():
        yield from _of_link((*own, name_of(node, peer)), parent.link)


def _of_link(labels: tuple[str, str], link: Link) -> Iterator[Sample]:
    yield Sample("xenith_link_open", labels, link.is_open)
    yield Sample("xenith_link_version", labels, link.version)
    for name, metric in LINK_COUNTS.items():
        yield Sample(metric.name, labels, link.counts[name])
    for name, count in sorted(link.counts.items()):
        if name.startswith(_REFUSED):
            reason = name.removeprefix(_REFUSED)
            yield Sample("xenith_link_refused_total", (*labels, reason), count)
