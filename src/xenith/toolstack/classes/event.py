"""Events: what changed after a token. At most one an object, the latest; none is lost."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from xenith.toolstack.methods import method
from xenith.toolstack.objects import Objects
from xenith.toolstack.schema import BY_LOWER_NAME, CLASSES, SILENT
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault
from xenith.xapi.xmlrpc import Int32

#: The longest that one call waits. Source: clients ask for about a minute.
WAIT_MAX_S = 600.0

_TOKEN = re.compile(r"([0-9]{1,20}),([0-9]{1,20})")


@method("event.from", is_wait=True)
async def event_from(
    host: HostServer, classes: list[str], token: str, timeout_s: float
) -> dict[str, Any]:
    """Give events after a token, waiting up to a timeout for the first. Source: event.from."""
    wanted = _Subscription(classes)
    objects = host.objects
    since = _generation(objects, token)
    clock = host.world.clock
    if not wanted.has_news(objects, since):
        change = objects.next_change(wanted.wants)
        try:
            async with asyncio.timeout(min(timeout_s, WAIT_MAX_S)):
                await change
        except TimeoutError:
            pass
        finally:
            change.cancel()
    if host.event_batch_s > 0 and not wanted.is_of_tasks_alone and wanted.has_news(objects, since):
        await clock.sleep(host.event_batch_s)
    # Waiting may have taken so long that deletions are no longer all known.
    if not objects.remembers(since):
        raise XapiFault("EVENTS_LOST")
    return {
        "events": wanted.events(objects, since),
        "valid_ref_counts": {
            name.lower(): Int32(len(objects.all(name))) for name in CLASSES if name not in SILENT
        },
        "token": _token(objects, objects.generation),
    }


@method("event.inject")
def inject(host: HostServer, class_name: str, ref: str) -> str:
    """Count an object as changed; give the token from just before."""
    before = host.objects.generation
    known = BY_LOWER_NAME.get(class_name.lower())
    if known is None:
        raise XapiFault("EVENT_SUBSCRIPTION_PARSE_FAILURE", class_name[:100])
    host.objects.touch(known, ref)
    return _token(host.objects, before)


@method("event.get_current_id")
def get_current_id(host: HostServer) -> int:
    """Give the number of the last event."""
    return host.objects.generation


@method("event.register")
def register(host: HostServer, classes: list[str]) -> None:
    """Ask to be told of classes from now on, by the old protocol. Source: event.register."""
    wanted = _Subscription(classes)
    kept = host.subscriptions.get(host.session())
    if kept is None:
        host.subscriptions[host.session()] = (wanted, host.objects.generation)
    else:
        host.subscriptions[host.session()] = (kept[0].joined(wanted), kept[1])


@method("event.unregister")
def unregister(host: HostServer, classes: list[str]) -> None:
    """Ask to be told of classes no more. Source: XenAPI event.unregister."""
    kept = host.subscriptions.get(host.session())
    if kept is None:
        raise XapiFault("SESSION_NOT_REGISTERED", host.session())
    less = kept[0].without(_Subscription(classes))
    if less.is_empty:
        del host.subscriptions[host.session()]
    else:
        host.subscriptions[host.session()] = (less, kept[1])


@method("event.next", is_wait=True)
async def event_next(host: HostServer) -> list[dict[str, Any]]:
    """Wait for what a session registered for. Source: XenAPI event.next."""
    session, objects = host.session(), host.objects
    while True:
        kept = host.subscriptions.get(session)
        if kept is None:
            raise XapiFault("SESSION_NOT_REGISTERED", session)
        wanted, since = kept
        if not objects.remembers(since):
            host.subscriptions[session] = (wanted, objects.generation)
            raise XapiFault("EVENTS_LOST")
        events: list[dict[str, Any]] = wanted.events(objects, since)
        host.subscriptions[session] = (wanted, objects.generation)
        if events:
            return events
        change = objects.next_change(wanted.wants)
        try:
            await change
        finally:
            change.cancel()


class _Subscription:
    """Which classes and objects a client asks about."""

    def __init__(self, classes: list[str]) -> None:
        self._is_all = False
        self._classes: set[str] = set()
        self._refs: set[tuple[str, str]] = set()
        # A text would be taken for its letters, and nothing would ever be told.
        if not isinstance(classes, list):
            raise XapiFault("EVENT_SUBSCRIPTION_PARSE_FAILURE", str(classes)[:100])
        for text in classes:
            if not isinstance(text, str):
                raise XapiFault("EVENT_SUBSCRIPTION_PARSE_FAILURE", str(text)[:100])
            name, _, ref = text.partition("/")
            if name == "*":
                self._is_all = True
                continue
            if not name.isidentifier() or "/" in ref:
                raise XapiFault("EVENT_SUBSCRIPTION_PARSE_FAILURE", text[:100])
            known = BY_LOWER_NAME.get(name.lower())
            if known is None:
                # Classes that a newer client knows and this server has none of.
                continue
            if ref:
                self._refs.add((known, ref))
            else:
                self._classes.add(known)

    def joined(self, other: _Subscription) -> _Subscription:
        """Ask about what either asks about."""
        made = _Subscription([])
        made._is_all = self._is_all or other._is_all
        made._classes = self._classes | other._classes
        made._refs = self._refs | other._refs
        return made

    def without(self, other: _Subscription) -> _Subscription:
        """Ask about what another does not ask about."""
        made = _Subscription([])
        made._is_all = self._is_all and not other._is_all
        made._classes = self._classes - other._classes
        made._refs = self._refs - other._refs
        return made

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked about."""
        return not (self._is_all or self._classes or self._refs)

    @property
    def is_of_tasks_alone(self) -> bool:
        """Whether only tasks are asked about; their answers are not held back."""
        names = self._classes | {name for name, _ in self._refs}
        return not self._is_all and names == {"task"}

    def wants(self, class_name: str, ref: str) -> bool:
        """Tell whether an object is asked about."""
        return self._is_all or class_name in self._classes or (class_name, ref) in self._refs

    def has_news(self, objects: Objects, since: int) -> bool:
        """Tell whether there is anything to say."""
        changed = any(
            self.wants(class_name, ref) for class_name, ref, _, _ in objects.changes_since(since)
        )
        return changed or (
            since > 0 and any(self.wants(name, ref) for name, ref in objects.deletions_since(since))
        )

    def events(self, objects: Objects, since: int) -> list[dict[str, Any]]:
        """Give the events, creations first, then changes, then deletions."""
        added: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for class_name, ref, at, created in objects.changes_since(since):
            if not self.wants(class_name, ref):
                continue
            operation = "add" if created > since else "mod"
            event = _event(class_name, ref, operation, at)
            event["snapshot"] = objects.get(class_name, ref)
            (added if operation == "add" else changed).append(event)
        deleted = [
            _event(class_name, ref, "del", 0)
            for class_name, ref in objects.deletions_since(since)
            if since > 0 and self.wants(class_name, ref)
        ]
        return [*reversed(added), *reversed(changed), *reversed(deleted)]


def _event(class_name: str, ref: str, operation: str, at: int) -> dict[str, Any]:
    return {
        "id": str(at),
        "timestamp": "0.0",
        "class": class_name.lower(),
        "operation": operation,
        "ref": ref,
    }


def _token(objects: Objects, generation: int) -> str:
    # The second number is xapi's count of messages, of which there are none here; clients hold
    # the token to be opaque, so it says which life of the database the first one belongs to.
    return f"{generation:020d},{objects.epoch:020d}"


def _generation(objects: Objects, token: str) -> int:
    if token == "":
        return 0
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise XapiFault("EVENT_FROM_TOKEN_PARSE_FAILURE", token[:64])
    since, epoch = int(match[1]), int(match[2])
    if epoch != objects.epoch or since > objects.generation or not objects.remembers(since):
        raise XapiFault("EVENTS_LOST")
    return since
