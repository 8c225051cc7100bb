"""The SRs that are attached to a host, by their references, and when each is to be tidied."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from xenith.toolstack.backends import Contents, Repository
from xenith.xapi.faults import XapiFault

#: Seconds from the change that leaves something to collect to the collection: a burst of changes
#: is one. Source: sm waits five minutes, as each of its runs is a process that scans all heads.
COLLECT_DELAY_S = 10.0


@dataclass(eq=False)
class Attached:
    """One SR that is attached."""

    repository: Repository
    #: Held while the records are brought in step, so that no older view comes last.
    scanning: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Looks that were asked for, and how many of them the last one that began was after.
    asked_count: int = 0
    begun_count: int = 0
    #: What that look found.
    contents: Contents | None = None


class Storage:
    """The attached SRs of one host."""

    def __init__(self) -> None:
        self.collect_delay_s = COLLECT_DELAY_S
        self.attached: dict[str, Attached] = {}
        #: SRs that garbage collection has not been through since they changed, oldest first.
        self.untidy: dict[str, None] = {}
        self.tidying: asyncio.Task[None] | None = None

    def get(self, sr_ref: str) -> Repository:
        """Give an SR's disks.

        Raises:
            XapiFault: SR_NOT_ATTACHED.
        """
        found = self.attached.get(sr_ref)
        if found is None:
            raise XapiFault("SR_NOT_ATTACHED", sr_ref)
        return found.repository
