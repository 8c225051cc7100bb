"""A thread that writes one step behind: the next block is read while the last is written.

Both are mostly the kernel's copying, which holds no lock of Python's, so two cores do what one
did, and what Python itself costs is hidden behind the writing. One step, so that two buffers,
used by turns, are enough: what was begun has ended before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Behind:
    """Does one thing after another; the first error is raised at the next step, or at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vhd-behind")
        self._begun: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def do(self, function: Callable[[], None]) -> None:
        """Begin it when what was begun before has ended."""
        self.wait()
        self._begun = self._thread.submit(function)

    def wait(self) -> None:
        """Return when what was begun has ended; raise what it raised."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()
