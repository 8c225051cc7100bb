"""Claims: which instance holds how much of which host. The rows are the truth, tables guess.

Several schedulers may serve one cell, each with a table in memory. A host's row of ``host_claims``
counts the claims on it and names who made the last: a scheduler whose table is not as of that claim
is refused, reads the host's claims anew and chooses again. Whoever made the last one knows of all
the others, and may believe in some that were given back since: those are found by comparing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from xenith.compute.records.instances import allocations
from xenith.db import CELL, Prepared, Row, Tx

host_claims = sa.Table(
    "host_claims",
    CELL,
    sa.Column("host_id", sa.Text, primary_key=True),
    # Counts what was claimed and given back.
    sa.Column("generation", sa.BigInteger, nullable=False),
    # The run of the scheduler that wrote last.
    sa.Column("claimant", sa.Text, nullable=False),
)

_CLAIM = Prepared(
    sa.update(host_claims)
    .where(
        host_claims.c.host_id == sa.bindparam("host"),
        sa.or_(
            host_claims.c.claimant == sa.bindparam("by"),
            host_claims.c.generation == sa.bindparam("seen"),
        ),
    )
    .values(generation=host_claims.c.generation + 1, claimant=sa.bindparam("by"))
    .returning(host_claims.c.generation)
)


def claim_host(tx: Tx, allocation: Mapping[str, Any], *, claimant: str, seen: int) -> int | None:
    """Write a claim, if nobody claimed since ``seen``; give the host's generation, or None.

    Transaction function.
    """
    host_id = allocation["host_id"]
    generation = tx.scalar(_CLAIM, host=host_id, by=claimant, seen=seen)
    if generation is None:
        if tx.find(host_claims, host_id=host_id) is not None:
            return None
        generation = 1
        tx.insert(host_claims, {"host_id": host_id, "generation": 1, "claimant": claimant})
    tx.upsert(allocations, allocation)
    return int(generation)


def shrink_claim(tx: Tx, instance_id: str, *, ram_mib: int, vcpus: int) -> Row | None:
    """Give back what an instance does not hold any more; give its allocation as it then is.

    A disk never shrinks, so what is claimed of disks stays. Transaction function.
    """
    held = tx.find(allocations, instance_id=instance_id)
    if held is None:
        return None
    tx.update(allocations, {"instance_id": instance_id}, ram_mib=ram_mib, vcpus=vcpus)
    tx.change(host_claims, {"host_id": held.host_id}, counter="generation")
    return tx.get(allocations, instance_id=instance_id)


def release_claim(tx: Tx, instance_id: str) -> Row | None:
    """Give back what an instance holds; give its allocation as it was. Transaction function."""
    held = tx.find(allocations, instance_id=instance_id)
    if held is not None:
        tx.delete(allocations, instance_id=instance_id)
        # Who claims there next need not know: it has more room than it thinks. Others are told
        # apart by the count alone, when tables are compared.
        tx.change(host_claims, {"host_id": held.host_id}, counter="generation")
    return held
