"""Application credentials with their access rules, and credentials kept encrypted for users."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from cryptography.fernet import Fernet

from xenith.core.clock import parse_iso
from xenith.core.errors import Conflict, Forbidden, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.identity import schemas
from xenith.identity.records import roles, secrets
from xenith.identity.records.secrets import ACCESS_RULES, APP_CREDS, CREDENTIALS


class AppCred(msgspec.Struct, frozen=True):
    """An application credential with the rows that it names."""

    row: Any
    roles: list[Any]
    rules: list[Any]


def refuse_restricted(who: Principal) -> None:
    """Let a credential make or delete others only if it is unrestricted.

    Raises:
        Forbidden: the caller's token was made with a restricted one.
    """
    if who.is_restricted:
        raise Forbidden("Using method 'application_credential' is not allowed for managing others.")


def create_app_cred(
    tx: Tx, new: schemas.NewAppCred, *, who: Principal, secret_hash: str, now: float
) -> AppCred:
    """Make an application credential for the caller's project. Transaction function.

    Raises:
        Invalid: the time is past or none, the token is for no project, or a role is not held.
        Conflict: the name is taken.
    """
    if who.project_id is None or new.project_id not in (None, who.project_id):
        raise Invalid("An application credential is for the project of the token.")
    if tx.find(APP_CREDS, user_id=who.user_id, name=new.name) is not None:
        raise Conflict(
            "Conflict occurred attempting to store application_credential - Duplicate entry "
            f"found with name {new.name}."
        )
    held = roles.effective_roles(tx, who.user_id, scope_id=who.project_id)
    # A token may hold less than its user does; what it makes holds no more than itself.
    held = [role for role in held if role.name in who.roles]
    chosen = held if not new.roles else [_choose(role, held) for role in new.roles]
    rule_ids = None
    if new.access_rules is not None:
        rule_ids = [_keep_rule(tx, who.user_id, rule) for rule in new.access_rules]
    app_cred_id = tx.world.ids.hex()
    tx.insert(
        APP_CREDS,
        {
            "id": app_cred_id,
            "user_id": who.user_id,
            "project_id": who.project_id,
            "name": new.name,
            "secret_hash": secret_hash,
            "description": new.description or "",
            "expires_at": _expiry(new.expires_at, now),
            "is_unrestricted": bool(new.unrestricted),
            "role_ids": [role.id for role in chosen],
            "rule_ids": rule_ids,
        },
    )
    return get_app_cred(tx, app_cred_id, user_id=who.user_id)


def get_app_cred(tx: Tx, app_cred_id: str, *, user_id: str) -> AppCred:
    """Get an application credential with what it names. Transaction function."""
    row = secrets.get_app_cred(tx, app_cred_id, user_id=user_id)
    return fill(tx, row)


def fill(tx: Tx, row: Row) -> AppCred:
    """Read what an application credential names. Transaction function."""
    named = [tx.find(roles.ROLES, id=role_id) for role_id in row.role_ids]
    rules = secrets.list_rules(tx, row.rule_ids or [])
    return AppCred(row, [role for role in named if role is not None], rules)


def get_rule(tx: Tx, rule_id: str, *, user_id: str) -> Row:
    """Get an access rule of a user. Transaction function.

    Raises:
        NotFound: the user has none with this id.
    """
    row = tx.find(ACCESS_RULES, id=rule_id)
    if row is None or row.user_id != user_id:
        raise NotFound(f"Could not find Access Rule: {rule_id}.")
    return row


def delete_rule(tx: Tx, rule_id: str, *, user_id: str) -> None:
    """Delete an access rule that no credential names. Transaction function.

    Raises:
        Forbidden: a credential names it.
    """
    get_rule(tx, rule_id, user_id=user_id)
    for row in tx.list(APP_CREDS, user_id=user_id):
        if rule_id in (row.rule_ids or []):
            raise Forbidden(
                f"Access rule {rule_id} is in use by the application credential {row.id}: delete "
                "that first."
            )
    tx.delete(ACCESS_RULES, id=rule_id)


def create_credential(
    tx: Tx, new: schemas.NewCredential, extra: dict[str, Any], *, user_id: str, key: Fernet
) -> Row:
    """Keep a credential for a user, encrypted. Transaction function.

    Raises:
        Invalid: an EC2 one has no access key, or names no project.
        Conflict: its access key is taken.
    """
    credential_id = tx.world.ids.hex()
    if new.type == "ec2":
        credential_id = ec2_id(_access_key(new.blob))
        if new.project_id is None:
            raise Invalid("An EC2 credential needs a project_id.")
    if tx.find(CREDENTIALS, id=credential_id) is not None:
        raise Conflict("Conflict occurred attempting to store credential - it exists.")
    tx.insert(
        CREDENTIALS,
        {
            "id": credential_id,
            "user_id": user_id,
            "project_id": new.project_id,
            "type": new.type,
            "encrypted_blob": key.encrypt(new.blob.encode()).decode(),
            "extra": extra,
        },
    )
    return get_credential(tx, credential_id)


def get_credential(tx: Tx, credential_id: str) -> Row:
    """Get a credential. Transaction function.

    Raises:
        NotFound: there is none with this id.
    """
    row = tx.find(CREDENTIALS, id=credential_id)
    if row is None:
        raise NotFound(f"Could not find credential: {credential_id}.")
    return row


def update_credential(
    tx: Tx,
    credential_id: str,
    change: schemas.CredentialChange,
    extra: dict[str, Any],
    *,
    key: Fernet,
) -> Row:
    """Change a credential. Transaction function."""
    row = get_credential(tx, credential_id)
    values = schemas.given(change)
    if (blob := values.pop("blob", None)) is not None:
        if row.type == "ec2" and ec2_id(_access_key(blob)) != credential_id:
            raise Invalid("The access key of an EC2 credential cannot be changed.")
        values["encrypted_blob"] = key.encrypt(blob.encode()).decode()
    if (
        "ec2" in (row.type, values.get("type", row.type))
        and values.get("type", row.type) != row.type
    ):
        raise Invalid("A credential cannot become an EC2 one, or stop being one.")
    tx.update(CREDENTIALS, {"id": credential_id}, **values, extra={**row.extra, **extra})
    return get_credential(tx, credential_id)


def ec2_id(access_key: str) -> str:
    """Give the id under which an EC2 credential is found. Source: keystone, contrib/ec2."""
    return hashlib.sha256(access_key.encode()).hexdigest()


def _access_key(blob: str) -> str:
    try:
        return str(msgspec.json.decode(blob.encode(), type=dict[str, Any])["access"])
    except (msgspec.DecodeError, KeyError) as error:
        raise Invalid("The blob of an EC2 credential is JSON with an access key.") from error


def _choose(asked: schemas.RoleRef, held: list[Row]) -> Row:
    for role in held:
        if (asked.id is None or asked.id == role.id) and asked.name in (None, role.name):
            return role
    raise Invalid("Invalid application credential: a role is asked for that the token lacks.")


def _expiry(text: str | None, now: float) -> float | None:
    if text is None:
        return None
    try:
        at_s = parse_iso(text)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"expires_at is no time: {text}") from error
    if at_s <= now:
        raise Invalid("expires_at is past.")
    return at_s


def _keep_rule(tx: Tx, user_id: str, rule: schemas.NewAccessRule) -> str:
    """Give the id of a rule, kept once for a user however many credentials name it."""
    if rule.id is not None:
        return str(get_rule(tx, rule.id, user_id=user_id).id)
    if rule.path is None or rule.method is None or rule.service is None:
        raise Invalid("An access rule has a service, a method and a path.")
    found = tx.find(
        ACCESS_RULES,
        user_id=user_id,
        service=rule.service,
        method=rule.method,
        path=rule.path,
    )
    if found is not None:
        return str(found.id)
    rule_id = tx.world.ids.hex()
    row = {"service": rule.service, "method": rule.method, "path": rule.path}
    tx.insert(ACCESS_RULES, {"id": rule_id, "user_id": user_id, **row})
    return rule_id
