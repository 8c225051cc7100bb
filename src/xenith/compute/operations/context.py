"""What every compute operation works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from xenith.cells.intents import IntentLink
from xenith.compute.neighbours import ImageSource, Networking, Projects
from xenith.core.world import World
from xenith.db import Database


@dataclass(frozen=True)
class Seal:
    """Encrypts the few secrets that rows must hold, with a key that is in no row."""

    close: Callable[[bytes], bytes]
    open: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Context:
    """The API cell's side of compute: its rows, its neighbours, its way down."""

    db: Database
    world: World
    link: IntentLink
    images: ImageSource
    networks: Networking
    projects: Projects
    seal: Seal
    #: Tells whether a host answers.
    is_host_up: Callable[[str], bool]
    #: Tells a host's cell that its row has changed.
    on_host_changed: Callable[[str], Awaitable[None]]
    #: Every server gets a config drive, whether asked for or not.
    has_forced_config_drive: bool = False
    #: The zone of hosts that are in none. Source: nova `default_availability_zone`.
    default_zone: str = "nova"
