"""Keypairs: public keys by user, given or made here; a private half is shown once and forgotten."""

from __future__ import annotations

import asyncio

import msgspec

from xenith.compute import keys
from xenith.compute.operations.context import Context
from xenith.compute.records.keypairs import (
    count_keypairs,
    find_keypair,
    keypairs,
    list_keypairs,
    next_number,
)
from xenith.compute.records.quotas import UNLIMITED, limits_of
from xenith.core.errors import Conflict, Exhausted, NotFound
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.db import Row, Tx


class NewKeypair(msgspec.Struct, frozen=True):
    """A keypair just made; ``private_key`` is shown now and never again."""

    row: Row
    private_key: str | None


class Keypairs:
    """Operations on keypairs. Whose they may be is the caller's to check."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self, user_id: str, *, limit: int = PAGE_ITEMS_MAX, marker: str | None = None
    ) -> list[Row]:
        """List a user's keypairs by name."""
        return await self._context.db.read(list_keypairs, user_id, limit=limit, marker=marker)

    async def get(self, user_id: str, name: str) -> Row:
        """Get a user's keypair.

        Raises:
            NotFound: there is none of that name.
        """
        row = await self._context.db.read(find_keypair, user_id, name)
        if row is None:
            raise _not_found(user_id, name)
        return row

    async def create(
        self, user_id: str, *, project_id: str, name: str, kind: str, public_key: str | None
    ) -> NewKeypair:
        """Keep a given public key, or make a pair.

        Raises:
            Conflict: the user has one of that name.
            Exhausted: the user has as many as the quota allows.
            Invalid: what was given is no public key or certificate.
        """
        # Refused before a key is made for nothing, and again where the row is written.
        await self._context.db.read(_refuse, user_id, project_id, name)
        material = await self._material(user_id, kind, public_key)

        def insert(tx: Tx) -> Row:
            _refuse(tx, user_id, project_id, name)
            tx.insert(
                keypairs,
                {
                    "user_id": user_id,
                    "name": name,
                    "number": next_number(tx),
                    "type": kind,
                    "public_key": material.public_key,
                    "fingerprint": material.fingerprint,
                    "created_at": self._context.world.clock.now(),
                },
            )
            return tx.get(keypairs, user_id=user_id, name=name)

        return NewKeypair(await self._context.db.run(insert), material.private_key)

    async def delete(self, user_id: str, name: str) -> None:
        """Delete a user's keypair; servers keep the key they were built with."""
        if not await self._context.db.run(
            lambda tx: tx.delete(keypairs, user_id=user_id, name=name)
        ):
            raise _not_found(user_id, name)

    async def _material(self, user_id: str, kind: str, public_key: str | None) -> keys.KeyMaterial:
        if public_key is not None:
            return keys.read_ssh(public_key) if kind == "ssh" else keys.read_x509(public_key)
        if kind == "ssh":
            return await asyncio.to_thread(keys.make_ssh)
        now_s = self._context.world.clock.now()
        return await asyncio.to_thread(keys.make_x509, user_id, now_s=now_s)


def _refuse(tx: Tx, user_id: str, project_id: str, name: str) -> None:
    if find_keypair(tx, user_id, name) is not None:
        raise Conflict(f"Key pair '{name}' already exists.")
    limit = limits_of(tx, project_id)["key_pairs"]
    if limit != UNLIMITED and count_keypairs(tx, user_id) >= limit:
        raise Exhausted(
            "Quota exceeded, too many key pairs.", kind="KeypairLimitExceeded", limit=limit
        )


def _not_found(user_id: str, name: str) -> NotFound:
    return NotFound(f"Keypair {name[:255]} not found for user {user_id[:255]}")
