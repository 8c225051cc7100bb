"""What a cell is besides its place in the tree: what a leaf does, and what a root asks for."""

from __future__ import annotations

from typing import Any, Protocol

from xenith.cells.capacity import Digest
from xenith.cells.intents import Intent, Verdict
from xenith.db import Tx


class Executor(Protocol):
    """What a leaf does with intents. The first and the last are called on the loop."""

    def prepare(self, intent: Intent) -> Any:
        """Do in memory what the transaction will write down: choose a host and claim it."""

    def apply(self, tx: Tx, intent: Intent, prepared: Any) -> Verdict | None:
        """Do what is asked, in rows; None to be asked again. Transaction function."""

    def abandon(self, intent: Intent, prepared: Any) -> None:
        """Take back what ``prepare`` did: the transaction was not made, or not needed."""

    def fence(self, tx: Tx, subject: str, build: str) -> None:
        """Let go of a build that was accepted and not confirmed. Transaction function."""

    def capacity(self) -> Digest:
        """Tell what is free; the node fills in whose it is."""

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """Answer a question."""


class Origin(Protocol):
    """What a root does with verdicts."""

    def answered(self, tx: Tx, intent: Intent, verdict: Verdict) -> None:
        """Hear the last word on an intent of this cell's own. Transaction function."""
