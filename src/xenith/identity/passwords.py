"""Passwords: hashed with Argon2id in a few threads of their own, never kept, never logged.

A wrong user costs as much time as a wrong password, so that names cannot be guessed by timing.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

#: Hashes made at a time. Each takes ``memory_kib`` and a core for some 20 ms.
THREADS = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs. Source: OWASP Password Storage Cheat Sheet, Argon2id."""

    memory_kib: int = 19456
    rounds: int = 2
    lanes: int = 1


class Passwords:
    """Makes and checks hashes."""

    def __init__(self, cost: Cost | None = None) -> None:
        cost = cost or Cost()
        self._hasher = PasswordHasher(
            time_cost=cost.rounds, memory_cost=cost.memory_kib, parallelism=cost.lanes
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        # A well-formed hash of nothing: checking against it takes the usual time and fails.
        asked = f"m={cost.memory_kib},t={cost.rounds},p={cost.lanes}"
        self._nobody = f"$argon2id$v=19${asked}${'A' * 22}${'A' * 43}"

    async def hash(self, password: str) -> str:
        """Hash a password. Runs on a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._hasher.hash, password)

    async def is_right(self, password: str, hashed: str | None) -> bool:
        """Tell whether a password is the hash's; with None it takes as long and is not.

        Runs on a thread.
        """
        loop = asyncio.get_running_loop()
        is_match = await loop.run_in_executor(
            self._threads, self._check, hashed or self._nobody, password
        )
        return is_match and hashed is not None

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False)

    def _check(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
