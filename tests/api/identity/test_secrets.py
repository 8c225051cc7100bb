"""Application credentials, access rules, credentials and EC2 key pairs, through the API."""

from __future__ import annotations

import pytest

from xenith.identity.records.secrets import CREDENTIALS


@pytest.fixture
async def demo(cloud):
    """A client of the user demo on its project, and the user's id."""
    scope = {"project": {"name": "demo", "domain": {"id": "default"}}}
    answer = await cloud.sign_in("demo", "demo-password", scope=scope)
    user_id = answer.json()["token"]["user"]["id"]
    return cloud.client(answer.headers["x-subject-token"]), user_id


def app_cred_auth(app_cred, **scope):
    section = {"id": app_cred["id"], "secret": app_cred["secret"]}
    identity = {"methods": ["application_credential"], "application_credential": section}
    return {"auth": {"identity": identity, **scope}}


async def make_app_cred(client, user_id, **fields):
    body = {"application_credential": {"name": "robot", **fields}}
    answer = await client.post(f"/users/{user_id}/application_credentials", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["application_credential"]


async def test_an_application_credential_opens_its_project_with_its_roles(cloud, demo):
    own, user_id = demo
    made = await make_app_cred(own, user_id, roles=[{"name": "reader"}])
    answer = await cloud.open.post("/auth/tokens", json=app_cred_auth(made))
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert token["project"]["name"] == "demo"
    assert [role["name"] for role in token["roles"]] == ["reader"]
    assert token["application_credential"]["restricted"] is True
    shown = await own.get(f"/users/{user_id}/application_credentials/{made['id']}")
    assert "secret" not in shown.json()["application_credential"]


async def test_a_restricted_credential_makes_no_other(cloud, demo):
    own, user_id = demo
    made = await make_app_cred(own, user_id)
    answer = await cloud.open.post("/auth/tokens", json=app_cred_auth(made))
    robot = cloud.client(answer.headers["x-subject-token"])
    body = {"application_credential": {"name": "second"}}
    again = await robot.post(f"/users/{user_id}/application_credentials", json=body)
    assert again.status_code == 403
    gone = await robot.delete(f"/users/{user_id}/application_credentials/{made['id']}")
    assert gone.status_code == 403


async def test_a_deleted_credential_voids_its_tokens(cloud, demo):
    own, user_id = demo
    made = await make_app_cred(own, user_id)
    answer = await cloud.open.post("/auth/tokens", json=app_cred_auth(made))
    token = answer.headers["x-subject-token"]
    assert await cloud.is_good(token)
    gone = await own.delete(f"/users/{user_id}/application_credentials/{made['id']}")
    assert gone.status_code == 204
    assert not await cloud.is_good(token)
    assert (await cloud.open.post("/auth/tokens", json=app_cred_auth(made))).status_code == 401


async def test_a_credential_ends_with_its_time_and_takes_no_scope(cloud, demo):
    own, user_id = demo
    made = await make_app_cred(own, user_id, expires_at="2023-11-14T22:15:00Z")
    assert made["expires_at"] == "2023-11-14T22:15:00.000000"
    scoped = app_cred_auth(made, scope={"system": {"all": True}})
    assert (await cloud.open.post("/auth/tokens", json=scoped)).status_code == 401
    answer = await cloud.open.post("/auth/tokens", json=app_cred_auth(made))
    assert answer.json()["token"]["expires_at"].startswith("2023-11-14T22:15:00")
    await cloud.clock.advance(120)
    assert (await cloud.open.post("/auth/tokens", json=app_cred_auth(made))).status_code == 401


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"expires_at": "yesterday"}, 400),
        ({"expires_at": "2001-01-01T00:00:00Z"}, 400),
        ({"roles": [{"name": "admin"}]}, 400),
        ({"name": ""}, 400),
        ({"access_rules": [{"path": "/x"}]}, 400),
    ],
)
async def test_a_credential_cannot_be_more_than_its_token(demo, fields, code):
    own, user_id = demo
    body = {"application_credential": {"name": "robot", **fields}}
    answer = await own.post(f"/users/{user_id}/application_credentials", json=body)
    assert answer.status_code == code, answer.text


async def test_nobody_makes_a_credential_for_another(cloud, demo):
    _, user_id = demo
    body = {"application_credential": {"name": "robot"}}
    answer = await cloud.admin.post(f"/users/{user_id}/application_credentials", json=body)
    assert answer.status_code == 403


async def test_access_rules_are_kept_once_and_not_deleted_in_use(cloud, demo):
    own, user_id = demo
    rule = {"service": "compute", "method": "GET", "path": "/v2.1/servers"}
    made = await make_app_cred(own, user_id, access_rules=[rule])
    await make_app_cred(own, user_id, name="second", access_rules=[rule])
    (kept,) = (await own.get(f"/users/{user_id}/access_rules")).json()["access_rules"]
    assert made["access_rules"][0]["id"] == kept["id"]
    url = f"/users/{user_id}/access_rules/{kept['id']}"
    assert (await own.delete(url)).status_code == 403
    answer = await cloud.open.post("/auth/tokens", json=app_cred_auth(made))
    assert answer.json()["token"]["application_credential"]["access_rules"][0]["path"]
    # Nothing compares requests with rules yet, so such a token opens nothing at all.
    robot = cloud.client(answer.headers["x-subject-token"])
    assert (await robot.get("/auth/catalog")).status_code == 401


async def test_a_credential_is_encrypted_at_rest_and_shown_to_its_owner(cloud, demo, db):
    own, user_id = demo
    body = {"credential": {"type": "cert", "blob": "plain words"}}
    made = (await own.post("/credentials", json=body)).json()["credential"]
    assert made["user_id"] == user_id
    row = await db.read(lambda tx: tx.get(CREDENTIALS, id=made["id"]))
    assert "plain" not in row.encrypted_blob
    assert (await own.get(f"/credentials/{made['id']}")).json()["credential"] == made
    admins = await cloud.admin.post("/credentials", json=body)
    assert admins.status_code == 201
    other = admins.json()["credential"]["id"]
    assert (await own.get(f"/credentials/{other}")).status_code == 403
    assert (await own.delete(f"/credentials/{other}")).status_code == 403
    assert [one["id"] for one in (await own.get("/credentials")).json()["credentials"]] == [
        made["id"]
    ]
    changed = await own.patch(f"/credentials/{made['id']}", json={"credential": {"blob": "new"}})
    assert changed.json()["credential"]["blob"] == "new"
    assert (await own.delete(f"/credentials/{made['id']}")).status_code == 204


async def test_an_ec2_key_pair_is_made_for_the_tokens_project(cloud, demo):
    own, user_id = demo
    url = f"/users/{user_id}/credentials/OS-EC2"
    project_id = await cloud.project_id("demo")
    made = (await own.post(url, json={"tenant_id": project_id})).json()["credential"]
    assert made["tenant_id"] == project_id
    assert (await own.get(f"{url}/{made['access']}")).json()["credential"] == made
    assert len((await own.get(url)).json()["credentials"]) == 1
    elsewhere = await own.post(url, json={"tenant_id": await cloud.project_id("admin")})
    assert elsewhere.status_code == 403
    assert (await own.delete(f"{url}/{made['access']}")).status_code == 204
    assert (await own.get(f"{url}/{made['access']}")).status_code == 404
