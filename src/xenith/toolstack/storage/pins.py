"""Who reads and who writes a disk now. What is in use keeps its file, its bytes and its parents."""

from __future__ import annotations

from collections import Counter

from xenith.toolstack.backends import BackendError

#: What a domain does with a disk for as long as it lives.
ATTACH = "attach"


class Pins:
    """Uses of disks, by uuid: any number of readers, or one writer."""

    def __init__(self) -> None:
        self._readers: Counter[str] = Counter()
        self._writers: set[str] = set()
        #: Those of the writers that are domains, in processes of their own.
        self._attached: set[str] = set()

    def add(self, uuid: str, operation: str, *, is_writer: bool) -> None:
        """Take a disk into use.

        Raises:
            BackendError: VDI_IN_USE, a writer has it, or is to have it beside readers.
        """
        if uuid in self._writers or (is_writer and self._readers[uuid]):
            raise BackendError("VDI_IN_USE", uuid, operation)
        if is_writer:
            self._writers.add(uuid)
            if operation == ATTACH:
                self._attached.add(uuid)
        else:
            self._readers[uuid] += 1

    def remove(self, uuid: str, *, is_writer: bool) -> None:
        """End one use."""
        if is_writer:
            self._writers.discard(uuid)
            self._attached.discard(uuid)
        elif self._readers[uuid] > 1:
            self._readers[uuid] -= 1
        else:
            del self._readers[uuid]

    def check_free(self, uuid: str, operation: str) -> None:
        """Refuse what must not be done to a disk in use.

        Raises:
            BackendError: VDI_IN_USE.
        """
        if self.is_used(uuid):
            raise BackendError("VDI_IN_USE", uuid, operation)

    def check_not_written(self, uuid: str, operation: str) -> None:
        """Refuse what must not be done to a disk that is being written to.

        Raises:
            BackendError: VDI_IN_USE.
        """
        if uuid in self._writers:
            raise BackendError("VDI_IN_USE", uuid, operation)

    def is_attached_writer(self, uuid: str) -> bool:
        """Tell whether a domain writes to a disk."""
        return uuid in self._attached

    def is_used(self, uuid: str) -> bool:
        """Tell whether anyone reads or writes a disk."""
        return uuid in self._writers or self._readers[uuid] > 0
