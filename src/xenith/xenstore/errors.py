"""The errors that xenstore's operations answer with: names of errno, sent as text."""

from __future__ import annotations


class XenstoreError(Exception):
    """An operation was refused; ``name`` is the errno's. Source: xs_wire.h, xsd_errors."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ProtocolError(Exception):
    """The other end does not keep to the protocol; the connection cannot go on."""
