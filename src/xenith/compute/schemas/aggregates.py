"""Bodies about aggregates. Source: Compute API, "Host aggregates"."""

from __future__ import annotations

from typing import Annotated

import msgspec

from xenith.compute.schemas.types import MetadataKey, Name, Text, Uuid

#: A zone's name; a colon would part it from a host's.
Zone = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^:]*[^:\s][^:]*$")]


class NewAggregate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An aggregate to make."""

    name: Name
    availability_zone: Zone | None = None


class NewAggregateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An aggregate to make, in its envelope."""

    aggregate: NewAggregate


class AggregateChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may change of an aggregate; at least one of both."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    availability_zone: Zone | msgspec.UnsetType | None = msgspec.UNSET


class AggregateChangeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change of an aggregate, in its envelope."""

    aggregate: AggregateChange


class HostOfAggregate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the actions `add_host` and `remove_host`."""

    host: Name


class ImageToCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image to bring to the hosts of an aggregate."""

    id: Uuid


class ImagesToCacheBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images to bring to the hosts of an aggregate."""

    cache: Annotated[list[ImageToCache], msgspec.Meta(min_length=1, max_length=100)]


class AggregateMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the action `set_metadata`; null takes an item away."""

    metadata: dict[MetadataKey, Text | None]
