"""Endpoints of application credentials, access rules, credentials and EC2 key pairs."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Forbidden, NotFound
from xenith.db import Row, Tx
from xenith.http import Endpoint
from xenith.identity import schemas
from xenith.identity.endpoints.shared import (
    NAME_FILTERS,
    PAGING,
    IdentityCall,
    answer_list,
    self_url,
)
from xenith.identity.endpoints.views import access_rule_view, app_cred_view
from xenith.identity.operations import secrets as operations
from xenith.identity.records import epochs, people, projects
from xenith.identity.records.listing import list_rows
from xenith.identity.records.secrets import ACCESS_RULES, APP_CREDS, CREDENTIALS

# -- application credentials


async def list_app_creds(call: IdentityCall) -> dict[str, Any]:
    """List a user's application credentials."""

    def read(tx: Tx) -> tuple[list[Row], bool, dict[str, operations.AppCred]]:
        people.get_user(tx, call["user_id"])
        where = [APP_CREDS.c.user_id == call["user_id"]]
        rows, has_more = list_rows(tx, APP_CREDS, call.query, filters=("name",), where=where)
        return rows, has_more, {row.id: operations.fill(tx, row) for row in rows}

    rows, has_more, filled = await call.service.db.read(read)
    return answer_list(
        call,
        "application_credentials",
        rows,
        lambda _, row: _app_cred_view(call, filled[row.id]),
        has_more=has_more,
    )


async def create_app_cred(call: IdentityCall) -> dict[str, Any]:
    """Make an application credential; its secret is shown now and never again."""
    operations.refuse_restricted(call.principal)
    new, world = call.body.application_credential, call.service.world
    secret = new.secret or world.ids.secret(48)
    secret_hash = await call.service.passwords.hash(secret)
    made = await call.service.db.run(
        operations.create_app_cred,
        new,
        who=call.principal,
        secret_hash=secret_hash,
        now=world.clock.now(),
    )
    return {"application_credential": {**_app_cred_view(call, made), "secret": secret}}


async def show_app_cred(call: IdentityCall) -> dict[str, Any]:
    """Show an application credential."""
    found = await call.service.db.read(
        operations.get_app_cred, call["application_credential_id"], user_id=call["user_id"]
    )
    return {"application_credential": _app_cred_view(call, found)}


async def delete_app_cred(call: IdentityCall) -> None:
    """Delete an application credential; its tokens are void at once."""
    operations.refuse_restricted(call.principal)

    def write(tx: Tx) -> None:
        app_cred_id = call["application_credential_id"]
        operations.get_app_cred(tx, app_cred_id, user_id=call["user_id"])
        tx.delete(APP_CREDS, id=app_cred_id)
        epochs.invalidate(tx)

    await call.service.db.run(write)


def _app_cred_view(call: IdentityCall, found: operations.AppCred) -> dict[str, Any]:
    return app_cred_view(call, found.row, roles=found.roles, rules=found.rules)


# -- access rules


async def list_access_rules(call: IdentityCall) -> dict[str, Any]:
    """List a user's access rules."""
    rows, has_more = await call.service.db.read(
        list_rows,
        ACCESS_RULES,
        call.query,
        filters=("service", "method", "path"),
        where=[ACCESS_RULES.c.user_id == call["user_id"]],
    )
    return answer_list(call, "access_rules", rows, _rule_view, has_more=has_more)


async def show_access_rule(call: IdentityCall) -> dict[str, Any]:
    """Show an access rule."""
    row = await call.service.db.read(
        operations.get_rule, call["access_rule_id"], user_id=call["user_id"]
    )
    return {"access_rule": _rule_view(call, row)}


async def delete_access_rule(call: IdentityCall) -> None:
    """Delete an access rule that no credential names."""
    await call.service.db.run(
        operations.delete_rule, call["access_rule_id"], user_id=call["user_id"]
    )


def _rule_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    url = self_url(call, "users", row.user_id, "access_rules", row.id)
    return {**access_rule_view(row), "links": {"self": url}}


# -- credentials


async def list_credentials(call: IdentityCall) -> dict[str, Any]:
    """List credentials: all for who may see all, else one's own."""
    where: list[sa.ColumnElement[bool]] = []
    who = call.principal
    if not call.allows("identity:list_credentials", credential_user_id=""):
        where.append(CREDENTIALS.c.user_id == who.user_id)
    rows, has_more = await call.service.db.read(
        list_rows, CREDENTIALS, call.query, filters=("user_id", "type"), where=where
    )
    return answer_list(call, "credentials", rows, _credential_view, has_more=has_more)


async def create_credential(call: IdentityCall) -> dict[str, Any]:
    """Keep a credential for a user."""
    new, extra = schemas.split(call.body.credential, schemas.NewCredential)
    user_id = new.user_id or call.principal.user_id
    call.enforce("identity:create_credential", credential_user_id=user_id)
    operations.refuse_restricted(call.principal)
    row = await call.service.db.run(
        operations.create_credential,
        new,
        extra,
        user_id=user_id,
        key=call.service.credential_key,
    )
    return {"credential": _credential_view(call, row)}


async def show_credential(call: IdentityCall) -> dict[str, Any]:
    """Show a credential."""
    return {"credential": _credential_view(call, await _get(call))}


async def update_credential(call: IdentityCall) -> dict[str, Any]:
    """Change a credential."""
    change, extra = schemas.split(call.body.credential, schemas.CredentialChange)
    await _get(call)
    if change.user_id is not msgspec.UNSET:
        call.enforce("identity:update_credential", credential_user_id=change.user_id)
    row = await call.service.db.run(
        operations.update_credential,
        call["credential_id"],
        change,
        extra,
        key=call.service.credential_key,
    )
    return {"credential": _credential_view(call, row)}


async def delete_credential(call: IdentityCall) -> None:
    """Delete a credential."""
    await _get(call)
    await call.service.db.run(_delete, call["credential_id"])


async def _get(call: IdentityCall) -> Row:
    row = await call.service.db.read(operations.get_credential, call["credential_id"])
    assert call.endpoint.policy is not None, "credentials are nobody's business"
    call.enforce(call.endpoint.policy, credential_user_id=row.user_id)
    return row


def _delete(tx: Tx, credential_id: str) -> None:
    tx.delete(CREDENTIALS, id=credential_id)


def _credential_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    return {
        **row.extra,
        "id": row.id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "type": row.type,
        "blob": _open(call, row),
        "links": {"self": self_url(call, "credentials", row.id)},
    }


def _open(call: IdentityCall, row: Row) -> str:
    return call.service.credential_key.decrypt(row.encrypted_blob.encode()).decode()


# -- EC2 key pairs


async def list_ec2(call: IdentityCall) -> dict[str, Any]:
    """List a user's EC2 key pairs."""
    where = [CREDENTIALS.c.user_id == call["user_id"], CREDENTIALS.c.type == "ec2"]
    rows, has_more = await call.service.db.read(list_rows, CREDENTIALS, call.query, where=where)
    return answer_list(call, "credentials", rows, _ec2_view, has_more=has_more)


async def create_ec2(call: IdentityCall) -> dict[str, Any]:
    """Make an EC2 key pair for a user on a project on which they have a role."""
    operations.refuse_restricted(call.principal)
    ids, user_id, project_id = call.service.world.ids, call["user_id"], call.body.tenant_id
    if project_id != call.principal.project_id and not call.principal.is_admin:
        raise Forbidden("An EC2 key pair is for the project of the token.")
    blob = {"access": ids.hex(), "secret": ids.secret(24), "trust_id": None}
    new = schemas.NewCredential(
        blob=msgspec.json.encode(blob).decode(), type="ec2", project_id=project_id
    )

    def write(tx: Tx) -> Row:
        people.get_user(tx, user_id)
        projects.get_project(tx, project_id)
        return operations.create_credential(
            tx, new, {}, user_id=user_id, key=call.service.credential_key
        )

    return {"credential": _ec2_view(call, await call.service.db.run(write))}


async def show_ec2(call: IdentityCall) -> dict[str, Any]:
    """Show an EC2 key pair."""
    return {"credential": _ec2_view(call, await _get_ec2(call))}


async def delete_ec2(call: IdentityCall) -> None:
    """Delete an EC2 key pair."""
    row = await _get_ec2(call)
    await call.service.db.run(_delete, row.id)


async def _get_ec2(call: IdentityCall) -> Row:
    row = await call.service.db.read(
        operations.get_credential, operations.ec2_id(call["credential_id"])
    )
    if row.user_id != call["user_id"] or row.type != "ec2":
        raise NotFound(f"Could not find credential: {call['credential_id']}.")
    return row


def _ec2_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    blob = msgspec.json.decode(_open(call, row), type=dict[str, Any])
    access = str(blob.get("access"))
    return {
        "user_id": row.user_id,
        "tenant_id": row.project_id,
        "access": access,
        "secret": blob.get("secret"),
        "trust_id": blob.get("trust_id"),
        "links": {"self": self_url(call, "users", row.user_id, "credentials", "OS-EC2", access)},
    }


_CREDS = "/v3/users/{user_id}/application_credentials"
_CRED = _CREDS + "/{application_credential_id}"
_RULES, _EC2 = "/v3/users/{user_id}/access_rules", "/v3/users/{user_id}/credentials/OS-EC2"
_PLAIN = "/v3/credentials/{credential_id}"

ENDPOINTS = (
    Endpoint(
        "GET",
        _CREDS,
        list_app_creds,
        policy="identity:list_application_credentials",
        name="application_credentials.list_application_credentials",
        query=PAGING | NAME_FILTERS,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "POST",
        _CREDS,
        create_app_cred,
        policy="identity:create_application_credential",
        name="application_credentials.create_application_credential",
        status=201,
        body=schemas.AppCredBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        _CRED,
        show_app_cred,
        policy="identity:get_application_credential",
        name="application_credentials.show_application_credential_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _CRED,
        delete_app_cred,
        policy="identity:delete_application_credential",
        name="application_credentials.delete_application_credential",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _RULES,
        list_access_rules,
        policy="identity:list_access_rules",
        name="application_credentials.list_access_rules",
        query=PAGING | {"service", "method", "path"},
        codes=(401, 403),
    ),
    Endpoint(
        "GET",
        _RULES + "/{access_rule_id}",
        show_access_rule,
        policy="identity:get_access_rule",
        name="application_credentials.show_access_rule_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _RULES + "/{access_rule_id}",
        delete_access_rule,
        policy="identity:delete_access_rule",
        name="application_credentials.delete_access_rule",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v3/credentials",
        list_credentials,
        policy="identity:list_credentials",
        name="credentials.list_credentials",
        query=PAGING | {"user_id", "type"},
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/credentials",
        create_credential,
        policy="identity:create_credential",
        name="credentials.create_credential",
        status=201,
        body=schemas.CredentialBody,
        codes=(400, 401, 403, 409),
    ),
    Endpoint(
        "GET",
        _PLAIN,
        show_credential,
        policy="identity:get_credential",
        name="credentials.show_credential_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        _PLAIN,
        update_credential,
        policy="identity:update_credential",
        name="credentials.update_credential",
        body=schemas.CredentialChangeBody,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _PLAIN,
        delete_credential,
        policy="identity:delete_credential",
        name="credentials.delete_credential",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _EC2,
        list_ec2,
        policy="identity:ec2_list_credentials",
        name="ec2_credentials.list",
        query=PAGING,
        codes=(401, 403),
    ),
    Endpoint(
        "POST",
        _EC2,
        create_ec2,
        policy="identity:ec2_create_credential",
        name="ec2_credentials.create",
        status=201,
        body=schemas.Ec2Body,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "GET",
        _EC2 + "/{credential_id}",
        show_ec2,
        policy="identity:ec2_get_credential",
        name="ec2_credentials.show",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _EC2 + "/{credential_id}",
        delete_ec2,
        policy="identity:ec2_delete_credential",
        name="ec2_credentials.delete",
        status=204,
        codes=(401, 403, 404),
    ),
)
