"""The classes' own methods, a file per noun; importing this enters them all."""

from __future__ import annotations

from functools import lru_cache

from xenith.toolstack import roles
from xenith.toolstack.classes import (
    appliances,
    cards,
    certificates,
    devices,
    event,
    host,
    host_life,
    lifecycle,
    links,
    live,
    measures,
    message,
    migration,
    network,
    pbd,
    people,
    pools,
    reception,
    session,
    sr,
    task,
    vbd,
    vdi,
    vif,
    vm,
    vm_copies,
    vm_resources,
    vm_settings,
)
from xenith.toolstack.methods import Method, generate

__all__ = [
    "appliances",
    "cards",
    "certificates",
    "devices",
    "event",
    "host",
    "host_life",
    "lifecycle",
    "links",
    "live",
    "measures",
    "message",
    "migration",
    "network",
    "pbd",
    "people",
    "pools",
    "reception",
    "session",
    "sr",
    "table",
    "task",
    "vbd",
    "vdi",
    "vif",
    "vm",
    "vm_copies",
    "vm_resources",
    "vm_settings",
]


@lru_cache(maxsize=1)
def table() -> dict[str, Method]:
    """Give all methods: those of the files here, and those that the class tables imply."""
    methods = generate()
    roles.enter(methods)
    return methods
