"""A XenAPI failure: a code and its parameters, all of them strings."""

from __future__ import annotations


class XapiFault(Exception):
    """What a call answers when it fails. Source: XenAPI, "Error Handling"."""

    def __init__(self, code: str, *params: object) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = tuple(str(param) for param in params)

    @property
    def description(self) -> list[str]:
        """The code and its parameters, as the wire carries them."""
        return [self.code, *self.params]

    def __str__(self) -> str:
        # Session references are secrets, and the only parameter of the faults that name one.
        shown = () if self.code == "SESSION_INVALID" else self.params
        return f"{self.code}({', '.join(shown)})"
