"""Which cached images leave a host: those that no disk stands on, the longest unused first.

A cached image that a server was cloned from shares its blocks, and to remove it would free nothing:
only what stands alone is chosen. Removing one is safe at any moment, since a storage repository
keeps what others stand on; whoever wants the image next brings it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from xenith.driver.chains import Record, chain_of
from xenith.driver.inventory import CachedImage


class Unused(NamedTuple):
    """A cached image that no disk stands on."""

    image_id: str
    #: What removing it frees.
    size_bytes: int
    idle_s: float


class Room(NamedTuple):
    """What a storage repository has, in bytes."""

    size_bytes: int
    used_bytes: int

    def lacks_bytes(self, free_share: float) -> float:
        """Tell how much must go so that such a share of it is free."""
        return self.size_bytes * free_share - (self.size_bytes - self.used_bytes)


def find_unused(
    images: Mapping[str, CachedImage], records: Mapping[str, Record], idle_s: Mapping[str, float]
) -> list[Unused]:
    """List the images that no disk but their own stands on, the longest unused first.

    ``records`` are all VDIs of the host by reference.
    """
    by_uuid = {record["uuid"]: record for record in records.values()}
    standing: Counter[str] = Counter()
    for record in records.values():
        if record["managed"]:
            standing.update(one["uuid"] for one in chain_of(record, by_uuid))
    found = []
    for image_id, image in images.items():
        own = records.get(image.vdi)
        if own is None or own["VBDs"]:
            continue
        links = list(chain_of(own, by_uuid))
        if all(standing[link["uuid"]] == 1 for link in links):
            size = sum(int(link["physical_utilisation"]) for link in links)
            found.append(Unused(image_id, size, idle_s.get(image_id, 0.0)))
    return sorted(found, key=lambda image: (-image.idle_s, image.image_id))


def choose(unused: list[Unused], *, idle_max_s: float, lacking_bytes: float) -> list[Unused]:
    """Choose those that are unused for too long, and as many more as room is lacking.

    >>> images = [Unused("a", 5, 90.0), Unused("b", 5, 20.0), Unused("c", 5, 10.0)]
    >>> [one.image_id for one in choose(images, idle_max_s=60.0, lacking_bytes=6)]
    ['a', 'b']
    """
    chosen, freed = [], 0
    for image in unused:
        if image.idle_s > idle_max_s or freed < lacking_bytes:
            chosen.append(image)
            freed += image.size_bytes
    return chosen
