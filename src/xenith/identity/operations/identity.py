"""The context of the identity service: its parts, its first start, and the hot path of tokens.

``authenticate`` is on the way of every request to every service, so what a token stands for is
kept, bounded, until a write that may void tokens: this process hears of its own with the commit,
and asks the rows for others' at most once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from xenith.core.errors import Unauthenticated
from xenith.core.world import World
from xenith.db import Database, Tx
from xenith.http import Principal
from xenith.identity.keys import TokenKeys, credential_key
from xenith.identity.operations import bootstrap
from xenith.identity.operations.authentication import Authentication
from xenith.identity.operations.bootstrap import CatalogEntry
from xenith.identity.passwords import Passwords
from xenith.identity.records import epochs
from xenith.identity.records.projects import PROJECTS
from xenith.identity.standing import REFUSAL

#: Tokens whose standing is kept; each is about a kilobyte.
KEPT_MAX = 20_000
#: How long another process's writes may go unnoticed.
FRESHNESS_S = 1.0


class Identity:
    """The identity service of one cloud."""

    def __init__(
        self,
        db: Database,
        world: World,
        *,
        key_directory: Path | None,
        region: str,
        token_life_s: int,
        passwords: Passwords | None = None,
    ) -> None:
        self.db = db
        self.world = world
        self.region = region
        self.passwords = passwords or Passwords()
        self._keys = TokenKeys(key_directory, world.clock)
        self.authentication = Authentication(
            db, world, keys=self._keys, passwords=self.passwords, life_s=token_life_s
        )
        self.credential_key = credential_key(key_directory)
        self._kept: dict[str, Principal] = {}
        #: Goes up with each write that may void tokens, so that no reading begun before is kept.
        self._writes = 0
        self._row_epoch = -1
        self._fresh_until = 0.0
        self._end_listening = db.listen(epochs.TOPIC, self._forget)

    async def bootstrap(
        self, *, admin_password: str, demo_password: str, catalog: Sequence[CatalogEntry]
    ) -> None:
        """Make what a new cloud begins with, once, and give its own services their addresses."""
        if not await self.db.read(bootstrap.is_seeded):
            admin_hash, demo_hash = await asyncio.gather(
                self.passwords.hash(admin_password), self.passwords.hash(demo_password)
            )
            await self.db.run(bootstrap.seed, admin_hash=admin_hash, demo_hash=demo_hash)
        await self.db.run(bootstrap.keep_catalog, catalog, region=self.region)
        self._keys.rotate_if_old()

    async def authenticate(self, token: str) -> Principal:
        """Tell whom a token stands for.

        Raises:
            Unauthenticated: it is unknown, expired or void.
        """
        clock = self.world.clock
        if clock.monotonic() >= self._fresh_until:
            await self._look_for_writes()
        kept = self._kept.get(token)
        if kept is not None:
            if kept.expires_at > clock.now():
                return kept
            del self._kept[token]
            raise Unauthenticated(REFUSAL)
        writes = self._writes
        standing = await self.authentication.check(token)
        if standing.app_cred is not None and standing.app_cred.rule_ids is not None:
            # What it may ask for depends on the request, which nobody compares with its rules yet;
            # a service that knows no access rules must refuse it. Source: Identity API v3.10.
            raise Unauthenticated(REFUSAL)
        principal = standing.principal()
        if writes == self._writes:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[token] = principal
        return principal

    def has_project(self, tx: Tx, project_id: str) -> bool:
        """Tell whether a project is there. Transaction function."""
        return tx.find(PROJECTS, id=project_id) is not None

    def rotate_keys(self) -> None:
        """Make tokens with the next key from now on; those made so far stay good."""
        self._keys.rotate()

    async def close(self) -> None:
        """Let the threads go and hear no more of commits."""
        self._end_listening()
        self.passwords.close()

    def _forget(self, _payload: str) -> None:
        self._writes += 1
        self._kept.clear()

    async def _look_for_writes(self) -> None:
        self._fresh_until = self.world.clock.monotonic() + FRESHNESS_S
        epoch = await self.db.read(epochs.read_epoch)
        if epoch != self._row_epoch:
            self._row_epoch = epoch
            self._forget("")
