"""Rows of policies: texts that older services keep here. Nothing of ours reads them."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import NotFound
from xenith.db import GLOBAL, Json, Row, Tx

POLICY_TEXTS = sa.Table(
    "identity_policies",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("blob", Json, nullable=False),
    sa.Column("extra", Json, nullable=False),
)


def get_policy(tx: Tx, policy_id: str) -> Row:
    """Get a policy.

    Raises:
        NotFound: there is none with this id.
    """
    row = tx.find(POLICY_TEXTS, id=policy_id)
    if row is None:
        raise NotFound(f"Could not find policy: {policy_id}.")
    return row
