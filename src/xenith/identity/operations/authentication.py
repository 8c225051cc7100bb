"""Signing in: from a request's methods and scope to a token, and from a token to its standing.

Whatever is wrong with a sign-in is answered in the same words, so that nothing is learned from
them. Source: Identity API v3, "Authentication and token management".
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass

from xenith.core.errors import Invalid, Unauthenticated
from xenith.core.world import World
from xenith.db import Database, Row, Tx
from xenith.identity import schemas
from xenith.identity.keys import TokenKeys
from xenith.identity.passwords import Passwords
from xenith.identity.records import epochs, people, projects, secrets
from xenith.identity.standing import REFUSAL, Standing, read_standing
from xenith.identity.tokens import Payload, ScopeKind, pack, unpack

#: No token of ours is nearly as long; more is not worth decrypting.
TOKEN_CHARACTERS_MAX = 1024


@dataclass(frozen=True, slots=True)
class _SignedIn:
    """Who a request's methods have shown the caller to be."""

    user_id: str
    generation: int
    methods: tuple[str, ...]
    expires_at: float
    parent_audit_id: str | None = None
    app_cred_id: str | None = None


class Authentication:
    """Makes, reads and revokes tokens."""

    def __init__(
        self, db: Database, world: World, *, keys: TokenKeys, passwords: Passwords, life_s: float
    ) -> None:
        self._db = db
        self._world = world
        self._keys = keys
        self._passwords = passwords
        self._life_s = life_s

    async def sign_in(self, auth: schemas.Auth) -> tuple[str, Standing]:
        """Make a token; gives it with what it stands for.

        Raises:
            Unauthenticated: the methods do not show who it is, or the scope is not theirs.
            Invalid: a named method has no section, or the scope is ambiguous.
        """
        if not auth.identity.methods:
            raise Unauthenticated(REFUSAL)
        shown: list[_SignedIn] = []
        for method in dict.fromkeys(auth.identity.methods):
            match method:
                case "password":
                    shown.append(await self._by_password(auth.identity.password))
                case "token":
                    shown.append(await self._by_token(auth.identity.token))
                case "application_credential":
                    section = auth.identity.application_credential
                    shown.append(await self._by_app_cred(section))
                case _:
                    raise Unauthenticated("Attempted to authenticate with an unsupported method.")
        who = _combine(shown)
        standing = await self._db.read(self._scope, who, auth.scope)
        return self._keys.encrypt(pack(standing.payload)), standing

    def read(self, token: str) -> Payload | None:
        """Read a token; None when it is none of ours."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            return None
        packed = self._keys.decrypt(token)
        return None if packed is None else unpack(packed)

    async def check(self, token: str, *, is_expired_allowed: bool = False) -> Standing:
        """Tell what a token stands for now.

        Raises:
            Unauthenticated: it is unknown, expired or void.
        """
        payload = self.read(token)
        if payload is None:
            raise Unauthenticated(REFUSAL)
        return await self._db.read(
            read_standing,
            payload,
            now=self._world.clock.now(),
            is_expired_allowed=is_expired_allowed,
        )

    async def revoke(self, standing: Standing) -> None:
        """Void one token, at once."""
        payload = standing.payload
        await self._db.run(
            epochs.revoke,
            payload.audit_ids[0],
            expires_at=payload.expires_at,
            now=self._world.clock.now(),
        )

    async def _by_password(self, section: schemas.PasswordMethod | None) -> _SignedIn:
        if section is None:
            raise Invalid("Expecting to find password in identity.")
        user = await self._db.read(_find_user, section.user)
        is_right = await self._passwords.is_right(
            section.user.password, None if user is None else user.password_hash
        )
        if user is None or not is_right or not user.enabled:
            raise Unauthenticated(REFUSAL)
        return _SignedIn(user.id, user.generation, ("password",), self._new_expiry())

    async def _by_token(self, section: schemas.TokenMethod | None) -> _SignedIn:
        if section is None:
            raise Invalid("Expecting to find token in identity.")
        payload = (await self.check(section.id)).payload
        return _SignedIn(
            payload.user_id,
            payload.generation,
            (*payload.methods, "token"),
            # A token begets none that lives longer, or it would never end.
            payload.expires_at,
            parent_audit_id=payload.audit_ids[-1],
            app_cred_id=payload.app_cred_id,
        )

    async def _by_app_cred(self, section: schemas.AppCredMethod | None) -> _SignedIn:
        if section is None:
            raise Invalid("Expecting to find application_credential in identity.")
        found = await self._db.read(_find_app_cred, section)
        is_right = await self._passwords.is_right(
            section.secret, None if found is None else found[0].secret_hash
        )
        if found is None or not is_right:
            raise Unauthenticated(REFUSAL)
        app_cred, user = found
        expires_at = self._new_expiry()
        if app_cred.expires_at is not None:
            expires_at = min(expires_at, app_cred.expires_at)
        return _SignedIn(
            user.id,
            user.generation,
            ("application_credential",),
            expires_at,
            app_cred_id=app_cred.id,
        )

    def _new_expiry(self) -> float:
        return self._world.clock.now() + self._life_s

    def _scope(self, tx: Tx, who: _SignedIn, asked: schemas.ScopeRef | str | None) -> Standing:
        now = self._world.clock.now()
        audit_id = base64.urlsafe_b64encode(uuid.UUID(self._world.ids.hex()).bytes)[:22].decode()
        audit_ids = (audit_id,) if who.parent_audit_id is None else (audit_id, who.parent_audit_id)

        def stand(scope: ScopeKind, scope_id: str | None) -> Standing:
            payload = Payload(
                user_id=who.user_id,
                generation=who.generation,
                methods=tuple(dict.fromkeys(who.methods)),
                issued_at=now,
                expires_at=who.expires_at,
                audit_ids=audit_ids,
                scope=scope,
                scope_id=scope_id,
                app_cred_id=who.app_cred_id,
            )
            return read_standing(tx, payload, now=now)

        if who.app_cred_id is not None:
            app_cred = tx.find(secrets.APP_CREDS, id=who.app_cred_id)
            if app_cred is None:
                raise Unauthenticated(REFUSAL)
            if asked is not None and _asked_scope(tx, asked) != ("project", app_cred.project_id):
                raise Unauthenticated("Application credentials cannot request a scope.")
            return stand("project", app_cred.project_id)
        if asked is not None:
            return stand(*_asked_scope(tx, asked))
        user = tx.find(people.USERS, id=who.user_id)
        if user is not None and user.default_project_id is not None:
            # A default that is not theirs (any more) is no reason to refuse them.
            try:
                return stand("project", user.default_project_id)
            except Unauthenticated:
                return stand("unscoped", None)
        return stand("unscoped", None)


def _combine(shown: list[_SignedIn]) -> _SignedIn:
    """Make one of what several methods have shown, which must be the same user."""
    first = shown[0]
    if any(other.user_id != first.user_id for other in shown):
        raise Unauthenticated(REFUSAL)
    return _SignedIn(
        first.user_id,
        first.generation,
        tuple(method for one in shown for method in one.methods),
        min(one.expires_at for one in shown),
        next((one.parent_audit_id for one in shown if one.parent_audit_id), None),
        next((one.app_cred_id for one in shown if one.app_cred_id), None),
    )


def _find_domain(tx: Tx, ref: schemas.DomainRef | None) -> Row | None:
    if ref is None or (ref.id is None and ref.name is None):
        raise Invalid("Expecting to find domain in user or project: give its id or name.")
    if ref.id is not None:
        row = tx.find(projects.PROJECTS, id=ref.id)
        return row if row is not None and row.is_domain else None
    return projects.find_project(tx, domain_id="", name=ref.name or "")


def _find_user(tx: Tx, ref: schemas.PasswordUser | schemas.UserRef) -> Row | None:
    if ref.id is not None:
        return tx.find(people.USERS, id=ref.id)
    if ref.name is None:
        raise Invalid("Expecting to find id or name in user.")
    domain = _find_domain(tx, ref.domain)
    return None if domain is None else tx.find(people.USERS, domain_id=domain.id, name=ref.name)


def _find_app_cred(tx: Tx, section: schemas.AppCredMethod) -> tuple[Row, Row] | None:
    if section.id is not None:
        app_cred = tx.find(secrets.APP_CREDS, id=section.id)
    else:
        if section.name is None or section.user is None:
            raise Invalid("Expecting to find id, or name and user, in application_credential.")
        user = _find_user(tx, section.user)
        app_cred = user and tx.find(secrets.APP_CREDS, user_id=user.id, name=section.name)
    if app_cred is None:
        return None
    owner = tx.find(people.USERS, id=app_cred.user_id)
    return None if owner is None else (app_cred, owner)


def _asked_scope(tx: Tx, asked: schemas.ScopeRef | str) -> tuple[ScopeKind, str | None]:
    """Find what a scope names; what does not exist is refused like what is not theirs."""
    if isinstance(asked, str):
        if asked != "unscoped":
            raise Invalid(f"There is no scope '{asked[:64]}'.")
        return "unscoped", None
    named = [name for name in asked.__struct_fields__ if getattr(asked, name) is not None]
    if len(named) != 1:
        raise Invalid("Expecting exactly one of project, domain, system or unscoped in scope.")
    if asked.system is not None:
        if not asked.system.all:
            raise Invalid("The only scope of the system is all of it.")
        return "system", None
    if asked.domain is not None:
        domain = _find_domain(tx, asked.domain)
        if domain is None:
            raise Unauthenticated(REFUSAL)
        return "domain", domain.id
    if asked.project is None:
        return "unscoped", None
    if asked.project.id is not None:
        project = tx.find(projects.PROJECTS, id=asked.project.id)
    else:
        if asked.project.name is None:
            raise Invalid("Expecting to find id or name in project.")
        domain = _find_domain(tx, asked.project.domain)
        project = domain and projects.find_project(tx, domain_id=domain.id, name=asked.project.name)
    if project is None:
        raise Unauthenticated(REFUSAL)
    return "project", project.id
