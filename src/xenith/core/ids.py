"""Identifiers, made from a random source that a seed may fix, and typed by what they name."""

from __future__ import annotations

import os
import random
import re
import secrets
import uuid
from functools import partial
from typing import NewType

CellId = NewType("CellId", str)
HostId = NewType("HostId", str)
ImageId = NewType("ImageId", str)
InstanceId = NewType("InstanceId", str)
NetworkId = NewType("NetworkId", str)
PortId = NewType("PortId", str)
ProjectId = NewType("ProjectId", str)
RequestId = NewType("RequestId", str)
SagaId = NewType("SagaId", str)
SubnetId = NewType("SubnetId", str)
UserId = NewType("UserId", str)

# uuid.UUID would take braces, "urn:", dashes anywhere and the digits of every script.
_UUID = re.compile("[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


#: A random UUID has 122 free bits; the others say that it is one. Source: RFC 9562, UUIDv4.
_FREE_BITS = ~(0xF << 76 | 0x3 << 62) & (2**128 - 1)
_VERSION_BITS = 0x4 << 76 | 0x2 << 62


#: Random numbers drawn at a time. A call of the operating system costs more than what is done here
#: with its answer, and a build needs forty.
_DRAWN = 256


class _Chance:
    """Numbers of 128 bits from the operating system. For names: secrets are drawn one by one."""

    def __init__(self) -> None:
        self._ready: list[int] = []
        # A child process would draw the same ones.
        os.register_at_fork(after_in_child=self._ready.clear)

    def draw(self) -> int:
        while True:
            try:
                # One step of the interpreter: no two threads are given the same one.
                return self._ready.pop()
            except IndexError:
                drawn = os.urandom(_DRAWN * 16)
                pieces = (drawn[at : at + 16] for at in range(0, len(drawn), 16))
                self._ready.extend(map(int.from_bytes, pieces))


_CHANCE = _Chance()


class Ids:
    """Makes identifiers; seeded for replay, or from the operating system.

    Secrets (passwords, keys) always come from the operating system unless a seed is given.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed) if seed is not None else random.SystemRandom()  # noqa: S311 - the seeded one is for simulations
        self._draw = _CHANCE.draw if seed is None else partial(self._random.getrandbits, 128)
        self.seed = seed

    def uuid(self) -> str:
        """Make a random UUID in the dashed form that compute, image and network use."""
        digits = self.hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def hex(self) -> str:
        """Make a random UUID as 32 hexadecimal digits, as identity uses."""
        # The standard library's class costs three times as much, and a build makes twenty ids.
        number = self._draw() & _FREE_BITS | _VERSION_BITS
        return f"{number:032x}"

    def request_id(self) -> RequestId:
        """Make a request id: ``req-<uuid>``."""
        return RequestId("req-" + self.uuid())

    def secret(self, byte_count: int = 16) -> str:
        """Make a URL-safe secret of at least ``byte_count`` random bytes."""
        if self.seed is not None:
            return self._random.randbytes(byte_count).hex()
        return secrets.token_urlsafe(byte_count)

    def uniform(self) -> float:
        """Draw a float in [0, 1)."""
        return self._random.random()

    def below(self, limit: int) -> int:
        """Draw an integer in [0, limit)."""
        return self._random.randrange(limit)


def derive_uuid(*names: str) -> str:
    """Derive a UUID from names, the same ones always giving the same id.

    Sagas name what they make on a host with it, so that a step done twice makes one thing.

    >>> derive_uuid("vm", "x") == derive_uuid("vm", "x")
    True
    """
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "xenith-1/" + "/".join(names)))


def is_uuid(text: str) -> bool:
    """Tell whether a text is a UUID, dashed or not.

    >>> is_uuid("0" * 32), is_uuid("x")
    (True, False)
    """
    return _UUID.fullmatch(text) is not None
