"""Which simulated process the running code belongs to: a context variable, inherited like any.

Tasks, timers and callbacks carry the context that they were made in, so whatever a process begins
is its own, however deep.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Never, Protocol


class Owner(Protocol):
    """A simulated process, as those see it who must ask whether it lives."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def is_dead(self) -> bool:
        """Whether nothing of it may run any more."""


class ProcessDied(BaseException):
    """The process that should have gone on is dead; no ``except Exception`` may catch this."""


#: The process that the running code belongs to; None is the world outside of all.
OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("OWNER", default=None)


async def stop_here(owner: Owner) -> Never:
    """Go no further, as code of a dead process.

    Raises:
        ProcessDied: the caller is not the process's own, or is being buried.
    """
    if OWNER.get() is owner:
        # Never woken: the loop drops what is a dead process's.
        await asyncio.get_running_loop().create_future()
    raise ProcessDied(f"{owner.name} is dead")
