"""The keys of a cell: one that signs what it says, one that opens what is meant for it alone.

A cell's file holds one seed, from which both private keys are derived; it never leaves the cell's
machine. The public halves stand in the topology, so a neighbour's broker may lose or delay a
message and can neither forge one nor read a secret that it carries.

A file is one line of text: ``xenith-cell-key-1``, a space, the 32 bytes of the seed in base64.

A sealed secret, by offset in bytes (keys are as RFC 7748 writes them, little-endian):

    0    1   format, 1
    1   32   public key of an X25519 pair that was made for this secret and forgotten
    33   n   the secret under ChaCha20-Poly1305
    33+n 16  its tag
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from xenith.core.errors import Forbidden, Invalid, NotFound

#: Source: RFC 8032 (Ed25519) and RFC 7748 (X25519).
KEY_BYTES = 32
#: Source: RFC 8032.
SIGNATURE_BYTES = 64
#: Public keys held ready for use: a cell hears its neighbours and those whose changes they pass on.
KEYS_READY_MAX = 4096

_FILE_MARK = "xenith-cell-key-1"
_SEALED_FORMAT = b"\x01"
#: The cipher's nonce. Each secret has a key of its own, so a fixed one never meets a key twice.
_NONCE = bytes(12)

KeyBytes = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class PublicKey(msgspec.Struct, frozen=True):
    """What others know of a cell's keys."""

    #: Ed25519.
    signing: KeyBytes
    #: X25519.
    sealing: KeyBytes

    def verify(self, data: bytes | memoryview, signature: bytes | memoryview) -> bool:
        """Tell whether this cell signed ``data``."""
        try:
            _signing_key(self.signing).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True

    def seal(self, secret: bytes) -> bytes:
        """Close a secret so that only this cell opens it.

        Raises:
            Invalid: the sealing key is none that keeps a secret.
        """
        ephemeral = X25519PrivateKey.generate()
        own = ephemeral.public_key().public_bytes_raw()
        try:
            shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(self.sealing))
        except ValueError as error:
            raise Invalid(f"the sealing key of {self.fingerprint()} is no usable key") from error
        cipher = ChaCha20Poly1305(_sealing_secret(shared, own, self.sealing))
        return _SEALED_FORMAT + own + cipher.encrypt(_NONCE, secret, _SEALED_FORMAT)

    def fingerprint(self) -> str:
        """Give the short form that people compare."""
        return hashlib.sha256(self.signing + self.sealing).hexdigest()[:16]


class CellKey:
    """A cell's private keys. Shows neither in a representation nor in an error."""

    __slots__ = ("_sealing", "_seed", "_signing", "public")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == KEY_BYTES, "a seed has 32 bytes"
        self._seed = seed
        self._signing = Ed25519PrivateKey.from_private_bytes(_derived(seed, b"signing"))
        self._sealing = X25519PrivateKey.from_private_bytes(_derived(seed, b"sealing"))
        self.public = PublicKey(
            signing=self._signing.public_key().public_bytes_raw(),
            sealing=self._sealing.public_key().public_bytes_raw(),
        )

    @classmethod
    def create(cls) -> CellKey:
        """Make a new key from the operating system's chance."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def derive(cls, seed: bytes) -> CellKey:
        """Make the same key each time from a seed of any length; for simulations."""
        return cls(_derived(seed, b"simulation"))

    @classmethod
    def load(cls, path: Path) -> CellKey:
        """Read a cell's key from its file.

        Raises:
            NotFound: there is no such file.
            Forbidden: others than its owner may read or write the file.
            Invalid: the file holds no key.
        """
        return cls(_read_seed(path))

    @classmethod
    def load_or_create(cls, path: Path) -> CellKey:
        """Read a cell's key, made the first time; of two processes that do so, the first wins."""
        try:
            return cls.load(path)
        except NotFound:
            _write_seed(path, secrets.token_bytes(KEY_BYTES))
            return cls.load(path)

    def save(self, path: Path) -> None:
        """Write the key to a file of its own, readable by its owner alone.

        Raises:
            Invalid: the file is there and holds another key.
        """
        _write_seed(path, self._seed)
        if not secrets.compare_digest(_read_seed(path), self._seed):
            raise Invalid(f"{path} holds another key: remove it or choose another file")

    def sign(self, data: bytes) -> bytes:
        """Sign: 64 bytes, the same for the same data."""
        return self._signing.sign(data)

    def shared_with(self, other: PublicKey, purpose: bytes) -> bytes:
        """Derive a secret that this cell and another have, and nobody else: 32 bytes.

        Both come to the same one from their own key and the other's public key, so it is sent
        nowhere and kept nowhere.
        """
        shared = self._sealing.exchange(X25519PublicKey.from_public_bytes(other.sealing))
        both = b"".join(sorted((self.public.sealing, other.sealing)))
        info = b"xenith shared secret 1 " + purpose
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=both, info=info).derive(shared)

    def open(self, sealed: bytes) -> bytes:
        """Open what was sealed for this cell.

        Raises:
            Invalid: it was sealed for another, or is damaged.
        """
        own = sealed[1 : 1 + KEY_BYTES]
        try:
            if sealed[:1] != _SEALED_FORMAT:
                raise ValueError
            shared = self._sealing.exchange(X25519PublicKey.from_public_bytes(own))
            cipher = ChaCha20Poly1305(_sealing_secret(shared, own, self.public.sealing))
            return cipher.decrypt(_NONCE, sealed[1 + KEY_BYTES :], _SEALED_FORMAT)
        except (ValueError, InvalidTag):
            # What went wrong would tell a forger how far they came.
            raise Invalid(f"this was not sealed for {self.public.fingerprint()}") from None

    def __repr__(self) -> str:
        return f"CellKey({self.public.fingerprint()})"

    def __reduce__(self) -> str:
        raise TypeError("a cell's key is not copied: it is loaded from its file")


@lru_cache(maxsize=KEYS_READY_MAX)
def _signing_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def _derived(seed: bytes, purpose: bytes) -> bytes:
    info = b"xenith cell key 1: " + purpose
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(seed)


def _sealing_secret(shared: bytes, ephemeral: bytes, receiver: bytes) -> bytes:
    """Derive the cipher's key; both public keys go in, since the exchange alone names neither."""
    info = b"xenith sealed secret 1"
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=ephemeral + receiver, info=info).derive(shared)


def _read_seed(path: Path) -> bytes:
    try:
        # Not to wait for a writer, should there be a pipe in the file's place.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path}: there is no cell key here") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    try:
        _refuse_shared(path, os.fstat(descriptor).st_mode)
        line = os.read(descriptor, 256)
    finally:
        os.close(descriptor)
    mark, _, text = line.partition(b" ")
    try:
        seed = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        seed = b""
    if mark != _FILE_MARK.encode() or len(seed) != KEY_BYTES:
        raise Invalid(f"{path} holds no cell key of this version")
    return seed


def _refuse_shared(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise Invalid(f"{path} is no file")
    if mode & 0o077:
        raise Forbidden(
            f"{path} holds a cell's key and has mode {stat.S_IMODE(mode):04o}: others could read "
            "it; make a new key, or chmod 600 if nobody else was on the host"
        )


def _write_seed(path: Path, seed: bytes) -> None:
    """Write a key's file whole or not at all, unless there is one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{_FILE_MARK} {base64.b64encode(seed).decode()}\n".encode())
            file.flush()
            # The public half is about to be told to others: a lost private one is a lost cell.
            os.fsync(descriptor)
        os.link(draft, path)
        _sync_directory(path.parent)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
