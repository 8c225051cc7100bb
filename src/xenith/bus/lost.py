"""What a session over a broker ends with; apart from it, so that catching it imports nothing."""

from __future__ import annotations


class Lost(Exception):
    """The broker is away, or said no; its words are the message. Ask again later."""


class NoCredit(Exception):
    """A queue has no room for a message of this class now."""
