"""Keys in a directory that only we may read: those of tokens turn, that of credentials stays.

Token keys are files named by number: the highest makes tokens, all of them are accepted, and ``0``
is the next one, known to every process before it is used. Source: keystone, key rotation.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from xenith.core.clock import Clock

#: Keys kept: the one staged, the one in use, and one whose tokens still live.
TOKEN_KEYS_MAX = 3
#: A key in use longer than this is replaced at the next start.
KEY_LIFE_S = 30 * 86400.0
#: The directory is read again for an unknown token at most this often.
RELOAD_INTERVAL_S = 5.0


class TokenKeys:
    """Encrypts and reads tokens; without a directory its keys die with the process."""

    def __init__(self, directory: Path | None, clock: Clock) -> None:
        self._directory = directory / "tokens" if directory else None
        if directory is not None:
            _make_private(directory)
        self._clock = clock
        self._keys: dict[int, bytes] = {}
        self._read_at = clock.monotonic()
        if self._directory is None:
            self._keys = {0: Fernet.generate_key(), 1: Fernet.generate_key()}
        else:
            _make_private(self._directory)
            self._keys = self._load()
            for number in (0, 1):
                if not self._keys.keys() - {0} or 0 not in self._keys:
                    _write_key(self._directory / str(number))
                    self._keys = self._load()
        self._assemble()

    def encrypt(self, payload: bytes) -> str:
        """Make a token of a payload."""
        sealed = self._primary.encrypt_at_time(payload, int(self._clock.now()))
        return sealed.rstrip(b"=").decode()

    def decrypt(self, token: str) -> bytes | None:
        """Give a token's payload; None when no key of ours made it."""
        try:
            sealed = token.encode("ascii")
        except UnicodeEncodeError:
            return None
        sealed += b"=" * (-len(sealed) % 4)
        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, ValueError):
            if not self._reload():
                return None
        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, ValueError):
            return None

    def rotate(self) -> None:
        """Put the staged key to use, stage a new one, and drop the oldest beyond the limit."""
        if self._directory is None:
            self._keys[max(self._keys) + 1] = self._keys[0]
            self._keys[0] = Fernet.generate_key()
            for number in self._surplus():
                del self._keys[number]
        else:
            self._keys = self._load()
            staged = self._directory / "0"
            staged.rename(self._directory / str(max(self._keys) + 1))
            _write_key(staged)
            self._keys = self._load()
            for number in self._surplus():
                (self._directory / str(number)).unlink(missing_ok=True)
            self._keys = self._load()
        self._assemble()

    def rotate_if_old(self) -> None:
        """Rotate when the key in use is older than its life."""
        if self._directory is not None:
            made_at = (self._directory / str(max(self._keys))).stat().st_mtime
            if self._clock.now() - made_at > KEY_LIFE_S:
                self.rotate()

    def _surplus(self) -> list[int]:
        return sorted(self._keys.keys() - {0})[: -(TOKEN_KEYS_MAX - 1)]

    def _load(self) -> dict[int, bytes]:
        assert self._directory is not None
        return {
            int(path.name): path.read_bytes()
            for path in self._directory.iterdir()
            if path.name.isdigit()
        }

    def _reload(self) -> bool:
        """Read the directory again; tell whether another process has changed it."""
        now = self._clock.monotonic()
        if self._directory is None or now - self._read_at < RELOAD_INTERVAL_S:
            return False
        self._read_at = now
        keys = self._load()
        if keys == self._keys:
            return False
        self._keys = keys
        self._assemble()
        return True

    def _assemble(self) -> None:
        order = sorted(self._keys, reverse=True)
        self._primary = Fernet(self._keys[order[0]])
        self._fernet = MultiFernet([Fernet(self._keys[number]) for number in order])


def credential_key(directory: Path | None) -> Fernet:
    """Give the key of the credentials at rest, made when there is none."""
    if directory is None:
        return Fernet(Fernet.generate_key())
    _make_private(directory)
    path = directory / "credentials"
    if not path.exists():
        _write_key(path)
    return Fernet(path.read_bytes())


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write_key(path: Path) -> None:
    """Write a key whole or not at all; the first of two processes that do so wins."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(Fernet.generate_key())
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
