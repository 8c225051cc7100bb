"""What is being done to objects of a host, and what else may be done to them meanwhile.

An operation that is overridden (a clean shutdown by a hard one) ends with TASK_CANCELLED.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from xenith.core.ids import Ids
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault


@dataclass(slots=True, eq=False)
class Operation:
    """One thing that is being done to one object."""

    name: str
    #: What XenAPI calls it by: the reference of its task.
    mark: str
    task: asyncio.Task[Any] | None
    is_overridden: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Operations:
    """The operations of one host by object's reference."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._of: dict[str, list[Operation]] = {}

    def of(self, ref: str) -> list[Operation]:
        """List what is being done to an object."""
        return self._of.get(ref, [])

    def check(
        self, class_name: str, ref: str, *, beside: Collection[str] = (), over: Collection[str] = ()
    ) -> None:
        """Refuse if something is being done that another thing cannot be done beside or over.

        Raises:
            XapiFault: OTHER_OPERATION_IN_PROGRESS.
        """
        for other in self.of(ref):
            if other.name not in beside and other.name not in over:
                raise XapiFault(
                    "OTHER_OPERATION_IN_PROGRESS", class_name, ref, other.name, other.mark
                )

    @contextlib.contextmanager
    def hold(
        self, class_name: str, ref: str, name: str, *, beside: Collection[str] = ()
    ) -> Iterator[Operation]:
        """Hold an object while something is done to it.

        Raises:
            XapiFault: OTHER_OPERATION_IN_PROGRESS; TASK_CANCELLED when another overrides this.
        """
        self.check(class_name, ref, beside=beside)
        own = Operation(name, f"OpaqueRef:{self._ids.uuid()}", asyncio.current_task())
        self._of.setdefault(ref, []).append(own)
        try:
            yield own
        except asyncio.CancelledError:
            if not own.is_overridden:
                raise
            assert own.task is not None, "only what runs in a task is overridden"
            own.task.uncancel()
            raise XapiFault("TASK_CANCELLED", NULL) from None
        finally:
            self._of[ref].remove(own)
            if not self._of[ref]:
                del self._of[ref]
            own.ended.set()

    async def override(self, ref: str, names: Collection[str]) -> None:
        """End what is being done to an object, and wait until it has."""
        for other in list(self.of(ref)):
            if other.name in names and other.task is not None:
                other.is_overridden = True
                other.task.cancel()
                await other.ended.wait()
