"""Join tokens: how a new cell proves, once, that an operator wants it in the tree.

The token is a text that the operator carries from ``xenith cell add`` to the new machine. It tells
where the API is, which root key signs the topology (so the joiner believes no other), and a secret
that is good once and for a while. The database keeps the secret's digest alone.

The text is ``xenith-join-1:`` and, in URL-safe base64 without padding, a msgpack map (see
``JoinToken``) followed by the first four bytes of its SHA-256, against a text cut short in copying.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa

from xenith.cells.keys import PublicKey
from xenith.cells.topology import NAME
from xenith.core.errors import Forbidden, Invalid
from xenith.core.ids import CellId
from xenith.db import GLOBAL, Json, Row, Tx

#: Bytes of chance in a secret: not to be guessed, however many tries.
SECRET_BYTES = 32
#: A token is for the machine that is being set up now; a week is for one that is still to arrive.
LIFE_S_MAX = 7 * 86400.0
#: Characters of a token's text; ours have about 300.
TOKEN_TEXT_MAX = 2048
#: Characters of the API's address.
URL_TEXT_MAX = 512

_MARK = "xenith-join-1:"
_CHECK_BYTES = 4
_URL = re.compile(r"https?://[\x21-\x7e]+")
#: The one answer to every secret that is not good, whatever is wrong with it.
_REFUSED = "the join token is not good: it was used, has expired or was never issued; ask for a new"

join_tokens = sa.Table(
    "join_tokens",
    GLOBAL,
    # SHA-256 of the secret, in hexadecimal digits.
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("cell_name", sa.Text, nullable=False),
    sa.Column("parents", Json, nullable=False),
    # What the operator wants of the cell besides: weights, rules, broker.
    sa.Column("wish", Json),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float),
    # The cell that used it.
    sa.Column("cell_id", sa.Text),
)
sa.Index("join_tokens_by_name", join_tokens.c.cell_name)

_REDEEM = (
    sa.update(join_tokens)
    .where(
        join_tokens.c.digest == sa.bindparam("key_digest"),
        join_tokens.c.used_at.is_(None),
        join_tokens.c.expires_at > sa.bindparam("now_s"),
    )
    .values(used_at=sa.bindparam("now_s"), cell_id=sa.bindparam("new_cell_id"))
)
_REVOKE = sa.delete(join_tokens).where(
    join_tokens.c.cell_name == sa.bindparam("name"), join_tokens.c.used_at.is_(None)
)


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says to the joiner. Its representation leaves the secret out."""

    api_url: Annotated[str, msgspec.Meta(max_length=URL_TEXT_MAX)]
    #: The root key: a topology that it did not sign is none.
    root: PublicKey
    secret: Annotated[str, msgspec.Meta(min_length=SECRET_BYTES, max_length=128)]
    #: The name that the cell will have.
    name: str

    def __repr__(self) -> str:
        return f"JoinToken(name={self.name!r}, api_url={self.api_url!r}, secret=***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name), ("api_url", self.api_url), ("secret", "***")]


def issue(
    tx: Tx,
    *,
    name: str,
    parents: Iterable[CellId],
    life_s: float,
    api_url: str,
    root: PublicKey,
    wish: dict[str, Any] | None = None,
) -> str:
    """Make a token for one cell and give its text, which is nowhere else. Transaction function.

    Raises:
        Invalid: the name, the life or the address is out of range.
    """
    if not 0 < life_s <= LIFE_S_MAX:
        raise Invalid(f"a join token lives up to {LIFE_S_MAX:.0f} seconds, not {life_s}")
    secret = tx.world.ids.secret(SECRET_BYTES)
    token = JoinToken(api_url=api_url, root=root, secret=secret, name=name)
    _check(token)
    now_s = tx.world.clock.now()
    tx.insert(
        join_tokens,
        {
            "digest": _digest(secret),
            "cell_name": name,
            "parents": list(parents),
            "wish": wish,
            "created_at": now_s,
            "expires_at": now_s + life_s,
            "used_at": None,
            "cell_id": None,
        },
    )
    return _write(token)


def parse(text: str) -> JoinToken:
    """Read a token's text.

    Raises:
        Invalid: it is none, or was cut short; the message does not repeat it.
    """
    text = text.strip()
    if len(text) > TOKEN_TEXT_MAX or not text.startswith(_MARK) or not text.isascii():
        raise Invalid(f"this is no join token: one begins with {_MARK}")
    digits = text[len(_MARK) :]
    try:
        data = base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4))
    except binascii.Error:
        data = b""
    said = data[:-_CHECK_BYTES]
    # The decoder passes over letters that are none of its own, so it is the text that is compared.
    if not said or _written(said) != text:
        raise Invalid("the join token is damaged: copy the whole of it")
    try:
        token = msgspec.msgpack.decode(said, type=JoinToken)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        # Not even as its cause: the text holds a secret, and a traceback would show parts of it.
        raise Invalid("the join token cannot be read: it is of another version") from None
    _check(token)
    return token


def redeem(tx: Tx, secret: str, *, now_s: float, cell_id: CellId) -> Row:
    """Use a token for a cell, once, and give its row with the name and the parents.

    The digest is looked for, not the secret, so how long that takes tells nothing of a secret; one
    statement decides, so of two cells with one token only the first joins. Transaction function.

    Raises:
        Forbidden: it is unknown, used or expired; the message does not tell which.
    """
    digest = _digest(secret)
    if tx.run(_REDEEM, key_digest=digest, now_s=now_s, new_cell_id=cell_id) != 1:
        raise Forbidden(_REFUSED)
    return tx.get(join_tokens, digest=digest)


def find_redeemed(tx: Tx, secret: str, *, now_s: float, cell_id: CellId) -> Row | None:
    """Find the token that this very cell has used, while it lives. Transaction function.

    The root's answer may be lost on its way: the cell then asks again, and is told again.
    """
    row = tx.find(join_tokens, digest=_digest(secret))
    return row if row is not None and row.cell_id == cell_id and row.expires_at > now_s else None


def revoke(tx: Tx, name: str) -> int:
    """Void the unused tokens for a cell's name; tell how many there were. Transaction function."""
    return tx.run(_REVOKE, name=name)


def prune(tx: Tx, *, before_s: float) -> int:
    """Forget tokens that expired before a time, used or not. Transaction function."""
    return tx.run(sa.delete(join_tokens).where(join_tokens.c.expires_at < before_s))


def _digest(secret: str) -> str:
    # A secret from outside may hold what UTF-8 cannot write; then it is one that nobody issued.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _write(token: JoinToken) -> str:
    return _written(msgspec.msgpack.encode(token))


def _written(said: bytes) -> str:
    check = hashlib.sha256(said).digest()[:_CHECK_BYTES]
    return _MARK + base64.urlsafe_b64encode(said + check).decode().rstrip("=")


def _check(token: JoinToken) -> None:
    if not NAME.fullmatch(token.name):
        raise Invalid(f"{token.name!r} is no name of a cell: small letters, digits and dashes")
    try:
        where = urlsplit(token.api_url)
        is_plain = bool(where.hostname) and where.port != 0 and "@" not in where.netloc
    except ValueError:
        is_plain = False
    if not is_plain or not _URL.fullmatch(token.api_url) or len(token.api_url) > URL_TEXT_MAX:
        raise Invalid("a join token's API address is http(s)://host, without an account")
