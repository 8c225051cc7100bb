"""A XenAPI failure: a code and its parameters, all of them strings."""

from __future__ import annotations


class XapiFault(Exception):
    """What a call answers when it fails. Source: XenAPI, "Error Handling"."""

    def __init__(self, code: str, *params: object) -> None:
        super().__init__(code)
        self.code = code
        self.params = tuple(str(param) for param in params)

    @property
    def description(self) -> list[str]:
        """The code and its parameters, as the wire carries them."""
        return [self.code, *self.params]

    def __str__(self) -> str:
        # A session's reference is a secret; these are the faults that name one.
        names_session = self.code == "SESSION_INVALID" or self.params[:1] == ("session",)
        shown = "" if names_session else ", ".join(self.params)
        return f"{self.code}({shown})"

    def __repr__(self) -> str:
        return f"XapiFault({self})"
