"""Which port has which address, and the next free address of a subnet without a search.

    pools   |#####################.....................|
                                  ^ cursor            end
    free below the cursor: rows of ``released_addresses``, the longest free first

Addresses are given out in order of the cursor, which passes by those that ports asked for by
name. Only when it has reached the end are released ones given again, so that neighbours have long
forgotten who had them. A released row may be out of date (its address was asked for by name, or
pools changed): it is checked when it is taken, so that neither taking nor releasing searches.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from xenith.db import GLOBAL, Row, Tx
from xenith.network.addresses import address_at, is_in_pools

IP_ALLOCATIONS = sa.Table(
    "ip_allocations",
    GLOBAL,
    sa.Column("subnet_id", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("port_id", sa.Text, nullable=False),
    #: The place of an address among its port's.
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Index("ip_allocations_by_port", "port_id"),
    sa.Index("ip_allocations_by_address", "address"),
)

CURSORS = sa.Table(
    "address_cursors",
    GLOBAL,
    sa.Column("subnet_id", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

RELEASED = sa.Table(
    "released_addresses",
    GLOBAL,
    sa.Column("subnet_id", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("released_at", sa.Float, nullable=False),
    sa.Index("released_addresses_by_age", "subnet_id", "released_at"),
)

#: Addresses looked up at once where the cursor meets a run of taken ones.
RUN_COUNT = 256


def is_taken(tx: Tx, subnet_id: str, address: str) -> bool:
    """Tell whether a port has an address. Transaction function."""
    return tx.find(IP_ALLOCATIONS, subnet_id=subnet_id, address=address) is not None


def find_free(tx: Tx, subnet: Row) -> str | None:
    """Find a subnet's next free address and move past it. Transaction function.

    The caller gives it to a port in the same transaction. None when all are taken.
    """
    cursor = tx.find(CURSORS, subnet_id=subnet.id)
    position = 0 if cursor is None else cursor.position
    address = address_at(subnet.pools, position)
    if address is not None and is_taken(tx, subnet.id, address):
        address, position = _pass_run(tx, subnet, position)
    if address is not None:
        _move(tx, subnet.id, position + 1, is_new=cursor is None)
        return address
    _move(tx, subnet.id, position, is_new=cursor is None)
    return _oldest_released(tx, subnet)


def give(tx: Tx, port_id: str, addresses: Sequence[tuple[str, str]], *, first: int = 0) -> None:
    """Give a port free addresses: pairs of subnet and address. Transaction function."""
    for number, (subnet_id, address) in enumerate(addresses, first):
        tx.insert(
            IP_ALLOCATIONS,
            {"subnet_id": subnet_id, "address": address, "port_id": port_id, "number": number},
        )


def addresses_of(tx: Tx, port_id: str) -> list[Row]:
    """List the addresses of a port in its order. Transaction function."""
    return sorted(tx.list(IP_ALLOCATIONS, port_id=port_id), key=lambda row: row.number)


def addresses_of_many(tx: Tx, port_ids: Sequence[str]) -> dict[str, list[Row]]:
    """List the addresses of ports, by port. Transaction function."""
    found: dict[str, list[Row]] = {port_id: [] for port_id in port_ids}
    if port_ids:
        statement = sa.select(IP_ALLOCATIONS).where(IP_ALLOCATIONS.c.port_id.in_(port_ids))
        for row in tx.all(statement.order_by(IP_ALLOCATIONS.c.number)):
            found[row.port_id].append(row)
    return found


def take_back(tx: Tx, rows: Sequence[Row]) -> None:
    """Take addresses from their ports, to be given again some day. Transaction function."""
    now = tx.world.clock.now()
    for row in rows:
        tx.delete(IP_ALLOCATIONS, subnet_id=row.subnet_id, address=row.address)
        tx.upsert(
            RELEASED, {"subnet_id": row.subnet_id, "address": row.address, "released_at": now}
        )


def begin_again(tx: Tx, subnet_id: str) -> None:
    """Put the cursor back to the start, for pools that have changed. Transaction function."""
    tx.delete(CURSORS, subnet_id=subnet_id)
    tx.delete(RELEASED, subnet_id=subnet_id)


def forget_subnet(tx: Tx, subnet_id: str) -> None:
    """Delete all that is kept of a subnet's addresses. Transaction function."""
    begin_again(tx, subnet_id)
    tx.delete(IP_ALLOCATIONS, subnet_id=subnet_id)


def _move(tx: Tx, subnet_id: str, position: int, *, is_new: bool) -> None:
    if is_new:
        tx.insert(CURSORS, {"subnet_id": subnet_id, "position": position})
    else:
        tx.update(CURSORS, {"subnet_id": subnet_id}, position=position)


def _pass_run(tx: Tx, subnet: Row, position: int) -> tuple[str | None, int]:
    """Find the first address from ``position`` on that is not taken; each run is passed once."""
    while True:
        run = [address_at(subnet.pools, position + at) for at in range(RUN_COUNT)]
        asked = [address for address in run if address is not None]
        columns = IP_ALLOCATIONS.c
        taken = {
            row.address
            for row in tx.all(
                sa.select(columns.address).where(
                    columns.subnet_id == subnet.id, columns.address.in_(asked)
                )
            )
        }
        for at, address in enumerate(asked):
            if address not in taken:
                return address, position + at
        position += len(asked)
        if len(asked) < RUN_COUNT:
            return None, position


def _oldest_released(tx: Tx, subnet: Row) -> str | None:
    columns = RELEASED.c
    oldest = (
        sa.select(columns.address)
        .where(columns.subnet_id == subnet.id)
        .order_by(columns.released_at)
        .limit(1)
    )
    while True:
        address: str | None = tx.scalar(oldest)
        if address is None:
            return None
        # Each row is met once: what is out of date goes as well.
        tx.delete(RELEASED, subnet_id=subnet.id, address=address)
        if is_in_pools(subnet.pools, address) and not is_taken(tx, subnet.id, address):
            return address
