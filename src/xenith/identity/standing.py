"""What a token stands for at this moment, read from the rows: its user, scope and roles.

The same reading serves for making a token and for checking one, so what voids a token (a disabled
user or project, a grant that is gone) is exactly what would refuse it anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenith.core.errors import Unauthenticated
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.identity.records import epochs, people, projects, roles, secrets
from xenith.identity.tokens import Payload

#: How long after its end a token is still shown to who asks for expired ones.
#: Source: keystone, allow_expired_window.
EXPIRED_WINDOW_S = 172800.0

REFUSAL = "The request you have made requires authentication."


@dataclass(frozen=True, slots=True)
class Standing:
    """Rows behind a token."""

    payload: Payload
    user: Row
    user_domain: Row
    #: The project or domain of the scope.
    scope: Row | None
    #: The domain of the scope's project.
    scope_domain: Row | None
    roles: list[Row]
    app_cred: Row | None

    def principal(self) -> Principal:
        """Give who calls, as services see it."""
        payload, scope = self.payload, self.scope
        is_project = payload.scope == "project" and scope is not None
        return Principal(
            user_id=self.user.id,
            user_name=self.user.name,
            user_domain_id=self.user.domain_id,
            roles=frozenset(role.name for role in self.roles),
            project_id=scope.id if is_project and scope else None,
            project_name=scope.name if is_project and scope else None,
            project_domain_id=self.scope_domain.id if self.scope_domain else None,
            domain_id=payload.scope_id if payload.scope == "domain" else None,
            is_system=payload.scope == "system",
            audit_id=payload.audit_ids[0],
            expires_at=payload.expires_at,
            app_cred_id=payload.app_cred_id,
            is_restricted=self.app_cred is not None and not self.app_cred.is_unrestricted,
        )


def read_standing(
    tx: Tx, payload: Payload, *, now: float, is_expired_allowed: bool = False
) -> Standing:
    """Read what a payload stands for now. Transaction function.

    Raises:
        Unauthenticated: it is void, in the same words whatever the reason.
    """
    if payload.expires_at + (EXPIRED_WINDOW_S if is_expired_allowed else 0) <= now:
        raise Unauthenticated(REFUSAL)
    if epochs.is_revoked(tx, payload.audit_ids[0]):
        raise Unauthenticated(REFUSAL)
    user = tx.find(people.USERS, id=payload.user_id)
    if user is None or not user.enabled or user.generation != payload.generation:
        raise Unauthenticated(REFUSAL)
    user_domain = _enabled(tx, user.domain_id)
    scope = scope_domain = app_cred = None
    held: list[Row] = []
    if payload.scope in ("project", "domain"):
        assert payload.scope_id is not None, "a scope without an id"
        scope = _enabled(tx, payload.scope_id)
        if payload.scope == "project":
            scope_domain = scope if scope.is_domain else _enabled(tx, scope.domain_id)
    if payload.scope != "unscoped":
        scope_id = payload.scope_id or roles.SYSTEM
        held = roles.effective_roles(tx, user.id, scope_id=scope_id)
    if payload.app_cred_id is not None:
        app_cred = _good_app_cred(tx, payload, now=now)
        # A credential is worth what its user still has of what it was given.
        given = {role.id for role in roles.list_roles(tx, app_cred.role_ids)}
        held = [role for role in held if role.id in given]
    if payload.scope != "unscoped" and not held:
        raise Unauthenticated(REFUSAL)
    return Standing(payload, user, user_domain, scope, scope_domain, held, app_cred)


def _good_app_cred(tx: Tx, payload: Payload, *, now: float) -> Row:
    row = tx.find(secrets.APP_CREDS, id=payload.app_cred_id)
    if row is None or row.project_id != payload.scope_id:
        raise Unauthenticated(REFUSAL)
    if row.expires_at is not None and row.expires_at <= now:
        raise Unauthenticated(REFUSAL)
    return row


def _enabled(tx: Tx, project_id: str) -> Row:
    row = tx.find(projects.PROJECTS, id=project_id)
    if row is None or not row.enabled:
        raise Unauthenticated(REFUSAL)
    return row
