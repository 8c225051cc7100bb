"""Bodies that differ by microversion, from one table of fields.

Each field says from which version to which it is there; a struct is made for every version at
which the set of fields changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from xenith.http.endpoint import Version


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a body: its wire name, type, and the versions that have it."""

    name: str
    type: Any
    #: The attribute on the struct; the wire name when empty.
    attribute: str = ""
    since: Version = (0, 0)
    #: The last version that has it.
    until: Version | None = None
    #: UNSET when it may be left out, NODEFAULT when it must be there.
    default: Any = msgspec.UNSET

    def is_at(self, version: Version) -> bool:
        """Tell whether the field is there at a version."""
        return self.since <= version and (self.until is None or version <= self.until)


REQUIRED = msgspec.NODEFAULT


def versioned(
    name: str, fields: Sequence[Field], *, envelope: str = "", beside: Sequence[Field] = ()
) -> tuple[tuple[Version, type[Any]], ...]:
    """Make the structs of a body, by first version; ``envelope`` is the key around the fields.

    ``beside`` are fields next to the envelope, such as scheduler hints.
    """
    starts = {(0, 0)}
    for field in (*fields, *beside):
        starts.add(field.since)
        if field.until is not None:
            starts.add((field.until[0], field.until[1] + 1))
    made: list[tuple[Version, type[Any]]] = []
    for start in sorted(starts):
        suffix = f"{start[0]}_{start[1]}"
        struct = _struct(f"{name}_{suffix}", fields, start)
        if envelope:
            outer = (Field(envelope, struct, default=REQUIRED), *beside)
            struct = _struct(f"{name}Body_{suffix}", outer, start)
        made.append((start, struct))
    return tuple(made)


def _struct(name: str, fields: Sequence[Field], version: Version) -> type[Any]:
    definitions: list[Any] = []
    for field in fields:
        if not field.is_at(version):
            continue
        optional = field.default is not REQUIRED
        annotation = field.type | msgspec.UnsetType if optional else field.type
        definitions.append(
            (
                field.attribute or field.name,
                annotation,
                msgspec.field(default=field.default, name=field.name)
                if optional
                else msgspec.field(name=field.name),
            )
        )
    return msgspec.defstruct(
        name, definitions, forbid_unknown_fields=True, frozen=True, kw_only=True
    )
