"""What makes tokens void: the count of such writes, and the tokens revoked one by one.

Every transaction that may make a good token bad calls ``invalidate``: this process forgets what it
knows of tokens with the commit, others when they next read the count.
"""

from __future__ import annotations

import sqlalchemy as sa

from xenith.db import GLOBAL, Tx

#: What this process's commits tell ``Identity``.
TOPIC = "identity.invalidated"

EPOCHS = sa.Table(
    "identity_epochs",
    GLOBAL,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

REVOCATIONS = sa.Table(
    "identity_revocations",
    GLOBAL,
    sa.Column("audit_id", sa.Text, primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Index("identity_revocations_expiry", "expires_at"),
)


def invalidate(tx: Tx) -> None:
    """Make every process look at its tokens again."""
    met = tx.run(
        sa.update(EPOCHS).where(EPOCHS.c.name == "tokens").values(value=EPOCHS.c.value + 1)
    )
    if not met:
        tx.insert(EPOCHS, {"name": "tokens", "value": 1})
    tx.notify(TOPIC, "")


def read_epoch(tx: Tx) -> int:
    """Tell how many writes there were that made tokens void."""
    row = tx.find(EPOCHS, name="tokens")
    return 0 if row is None else int(row.value)


def revoke(tx: Tx, audit_id: str, *, expires_at: float, now: float) -> None:
    """Void one token, and drop what is known of those that have expired since."""
    tx.run(sa.delete(REVOCATIONS).where(REVOCATIONS.c.expires_at < now))
    tx.upsert(REVOCATIONS, {"audit_id": audit_id, "expires_at": expires_at})
    invalidate(tx)


def is_revoked(tx: Tx, audit_id: str) -> bool:
    """Tell whether one token was voided."""
    return tx.find(REVOCATIONS, audit_id=audit_id) is not None
