"""Whose turn it is to change a repository: callers' before that of work that nobody waits for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """One holder at a time, among threads. Not to be taken again by who has it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._waiting_count = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Hold the turn for what somebody waits for. Blocks until it is free."""
        with self._changed:
            self._waiting_count += 1
            try:
                self._changed.wait_for(lambda: not self._is_taken)
                self._is_taken = True
            finally:
                self._waiting_count -= 1
        try:
            yield
        finally:
            self._give_back()

    @contextlib.contextmanager
    def background(self) -> Iterator[None]:
        """Hold the turn for a step of the work behind. Blocks until no caller waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken and not self._waiting_count)
            self._is_taken = True
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()
