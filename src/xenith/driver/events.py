"""One stream of events a host: what VMs there are and how they are, never asked one by one.

The token is kept from answer to answer. When the host has lost it (EVENTS_LOST, or a restart),
everything is fetched again and what is not there any more is told as gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from xenith.core.limits import HOST_SILENCE_MAX_S
from xenith.xapi import EventBatch, XapiFault, XapiSession

#: Seconds that one poll waits; half of the silence after which a host is held to be down.
POLL_S = HOST_SILENCE_MAX_S / 2
CLASSES = ("vm",)
#: Faults after which all is fetched again.
LOST = frozenset({"EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE"})


class VmListener(Protocol):
    """Whoever hears of VMs."""

    def vm_changed(self, ref: str, record: Mapping[str, Any]) -> None:
        """Hear what a VM is now."""

    def vm_gone(self, ref: str) -> None:
        """Hear that a VM is no more."""

    def vms_are(self, refs: set[str]) -> None:
        """Hear which VMs there are in all; others are gone."""


class EventStream:
    """Follows one host's events for a listener."""

    def __init__(self, listener: VmListener) -> None:
        self._listener = listener
        self._token = ""

    async def load(self, session: XapiSession) -> None:
        """Fetch all VMs, and the token from which on to follow."""
        self._token = ""
        batch = await session.events(CLASSES, "", 0.0)
        self._tell(batch)
        self._listener.vms_are({event["ref"] for event in batch.events if "snapshot" in event})

    async def follow(self, session: XapiSession) -> None:
        """Tell events for as long as the host answers.

        Raises:
            Unavailable: the host does not.
        """
        while True:
            try:
                self._tell(await session.events(CLASSES, self._token, POLL_S))
            except XapiFault as fault:
                if fault.code not in LOST:
                    raise
                await self.load(session)

    def _tell(self, batch: EventBatch) -> None:
        for event in batch.events:
            if event["class"] != "vm":
                continue
            if event["operation"] == "del":
                self._listener.vm_gone(event["ref"])
            elif "snapshot" in event:
                self._listener.vm_changed(event["ref"], event["snapshot"])
        self._token = batch.token
