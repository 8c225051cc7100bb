"""Signing in, what a token says, and everything that voids one."""

from __future__ import annotations

import pytest

GENERIC = "The request you have made requires authentication."


def project_scope(name):
    return {"project": {"name": name, "domain": {"id": "default"}}}


async def test_a_password_opens_a_project_with_roles_and_a_filled_catalog(cloud):
    answer = await cloud.sign_in(scope=project_scope("admin"))
    assert answer.status_code == 201
    assert answer.headers["vary"] == "X-Auth-Token"
    token = answer.json()["token"]
    assert token["methods"] == ["password"]
    assert token["project"]["domain"] == {"id": "default", "name": "Default"}
    assert [role["name"] for role in token["roles"]] == ["admin", "manager", "member", "reader"]
    urls = {
        (entry["type"], endpoint["interface"]): endpoint["url"]
        for entry in token["catalog"]
        for endpoint in entry["endpoints"]
    }
    assert urls["object-store", "public"].endswith("AUTH_" + token["project"]["id"])
    assert len(urls) == 6
    assert len(answer.headers["x-subject-token"]) < 255
    assert "admin-password" not in answer.text


async def test_the_demo_user_is_a_member_and_so_a_reader(cloud):
    answer = await cloud.sign_in("demo", "demo-password", scope=project_scope("demo"))
    assert [role["name"] for role in answer.json()["token"]["roles"]] == ["member", "reader"]


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        (None, None),
        ("unscoped", None),
        ({"unscoped": {}}, None),
        ({"system": {"all": True}}, "system"),
    ],
)
async def test_scopes_of_the_admin(cloud, scope, key):
    answer = await cloud.sign_in(scope=scope)
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert {"project", "domain", "system"} & token.keys() == ({key} if key else set())
    assert ("roles" in token) is (key is not None)


async def test_a_token_for_the_system_leaves_out_addresses_of_a_project(cloud):
    token = (await cloud.sign_in(scope={"system": {"all": True}})).json()["token"]
    swift = next(entry for entry in token["catalog"] if entry["type"] == "object-store")
    assert swift["endpoints"] == []


@pytest.mark.parametrize(
    ("user", "password", "scope"),
    [
        ("admin", "wrong", None),
        ("nobody", "admin-password", None),
        ("demo", "demo-password", project_scope("admin")),
        ("demo", "demo-password", project_scope("nowhere")),
        ("demo", "demo-password", {"system": {"all": True}}),
        ("demo", "demo-password", {"domain": {"id": "default"}}),
        ("demo", "demo-password", {"domain": {"id": "nowhere"}}),
    ],
)
async def test_every_refusal_reads_the_same(cloud, user, password, scope):
    answer = await cloud.sign_in(user, password, scope=scope)
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == GENERIC
    assert answer.headers["www-authenticate"].startswith("Keystone uri=")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 400),
        ({"auth": {}}, 400),
        ({"auth": {"identity": {"methods": ["password"]}}}, 400),
        ({"auth": {"identity": {"methods": ["token"]}}}, 400),
        ({"auth": {"identity": {"methods": ["magic"]}}}, 401),
        ({"auth": {"identity": {"methods": []}}}, 401),
        ({"auth": {"identity": {"methods": ["token"], "token": {"id": "gAAA"}}}}, 401),
        ({"auth": {"identity": {"methods": ["token"], "token": {"id": "é" * 40}}}}, 401),
        ({"auth": {"identity": {"methods": ["token"], "token": {"id": "x" * 9000}}}}, 401),
        ({"auth": {"identity": {"methods": ["token"], "token": {"id": 7}}}}, 400),
    ],
)
async def test_bodies_that_show_nobody_are_refused(cloud, body, code):
    answer = await cloud.open.post("/auth/tokens", json=body)
    assert answer.status_code == code, answer.text
    assert answer.json()["error"]["code"] == code


async def test_two_scopes_at_once_are_refused(cloud):
    scope = {**project_scope("admin"), "system": {"all": True}}
    assert (await cloud.sign_in(scope=scope)).status_code == 400


async def test_a_token_begets_another_that_ends_no_later_and_names_its_first(cloud):
    first = await cloud.sign_in()
    token = first.headers["x-subject-token"]
    await cloud.clock.advance(100)
    body = {
        "auth": {
            "identity": {"methods": ["token"], "token": {"id": token}},
            "scope": project_scope("admin"),
        }
    }
    second = (await cloud.open.post("/auth/tokens", json=body)).json()["token"]
    assert second["methods"] == ["password", "token"]
    assert second["expires_at"] == first.json()["token"]["expires_at"]
    assert second["audit_ids"][1:] == first.json()["token"]["audit_ids"]


async def test_a_token_is_shown_checked_and_revoked(cloud):
    token = await cloud.token("demo", "demo-password", scope=project_scope("demo"))
    own = cloud.client(token)
    subject = {"X-Subject-Token": token}
    shown = await own.get("/auth/tokens", headers=subject)
    assert shown.json()["token"]["user"]["name"] == "demo"
    assert "catalog" in shown.json()["token"]
    brief = await own.get("/auth/tokens?nocatalog", headers=subject)
    assert "catalog" not in brief.json()["token"]
    checked = await own.head("/auth/tokens", headers=subject)
    assert (checked.status_code, checked.content) == (200, b"")
    assert (await own.delete("/auth/tokens", headers=subject)).status_code == 204
    assert not await cloud.is_good(token)


async def test_anothers_token_is_not_shown(cloud):
    admin = await cloud.token()
    own = cloud.client(await cloud.token("demo", "demo-password", scope=project_scope("demo")))
    answer = await own.get("/auth/tokens", headers={"X-Subject-Token": admin})
    assert answer.status_code == 403


async def test_a_token_ends_with_its_time(cloud):
    token = await cloud.token("demo", "demo-password")
    assert (await cloud.client(token).get("/auth/catalog")).status_code == 200
    await cloud.clock.advance(3601)
    assert (await cloud.client(token).get("/auth/catalog")).status_code == 401
    cloud.admin = cloud.client(await cloud.token(scope=project_scope("admin")))
    subject = {"X-Subject-Token": token}
    assert (await cloud.admin.get("/auth/tokens", headers=subject)).status_code == 404
    allowed = await cloud.admin.get("/auth/tokens?allow_expired=1", headers=subject)
    assert allowed.status_code == 200


async def _demo(cloud):
    user = (await cloud.admin.get("/users?name=demo")).json()["users"][0]["id"]
    return user, await cloud.project_id("demo"), await cloud.role_id("member")


async def _disable_user(cloud):
    user, _, _ = await _demo(cloud)
    return await cloud.admin.patch(f"/users/{user}", json={"user": {"enabled": False}})


async def _delete_user(cloud):
    user, _, _ = await _demo(cloud)
    return await cloud.admin.delete(f"/users/{user}")


async def _reset_password(cloud):
    user, _, _ = await _demo(cloud)
    return await cloud.admin.patch(f"/users/{user}", json={"user": {"password": "new"}})


async def _change_password(cloud):
    user, _, _ = await _demo(cloud)
    body = {"user": {"password": "new", "original_password": "demo-password"}}
    return await cloud.open.post(f"/users/{user}/password", json=body)


async def _disable_project(cloud):
    _, project, _ = await _demo(cloud)
    return await cloud.admin.patch(f"/projects/{project}", json={"project": {"enabled": False}})


async def _delete_project(cloud):
    _, project, _ = await _demo(cloud)
    return await cloud.admin.delete(f"/projects/{project}")


async def _take_role(cloud):
    user, project, role = await _demo(cloud)
    return await cloud.admin.delete(f"/projects/{project}/users/{user}/roles/{role}")


async def _delete_role(cloud):
    _, _, role = await _demo(cloud)
    return await cloud.admin.delete(f"/roles/{role}")


@pytest.mark.parametrize(
    "act",
    [
        _disable_user,
        _delete_user,
        _reset_password,
        _change_password,
        _disable_project,
        _delete_project,
        _take_role,
        _delete_role,
    ],
)
async def test_a_token_is_void_as_soon_as_what_it_rests_on_is_gone(cloud, act):
    token = await cloud.token("demo", "demo-password", scope=project_scope("demo"))
    assert await cloud.is_good(token)
    answer = await act(cloud)
    assert answer.status_code in (200, 204), answer.text
    assert not await cloud.is_good(token)


async def test_a_user_who_was_disabled_does_not_get_old_tokens_back(cloud):
    token = await cloud.token("demo", "demo-password")
    await _disable_user(cloud)
    user, _, _ = await _demo(cloud)
    await cloud.admin.patch(f"/users/{user}", json={"user": {"enabled": True}})
    assert not await cloud.is_good(token)
    assert (await cloud.sign_in("demo", "demo-password")).status_code == 201


async def test_another_process_sees_a_revocation_within_seconds(cloud, db, world):
    from xenith.identity import Identity

    token = await cloud.token("demo", "demo-password")
    other = Identity(db, world, key_directory=None, region="RegionOne", token_life_s=3600)
    other._keys = cloud.identity._keys
    other.authentication._keys = cloud.identity._keys
    other._end_listening()  # as another process, it does not hear this one's commits
    other._end_listening = lambda: None
    assert (await other.authenticate(token)).user_name == "demo"
    await _disable_user(cloud)
    await cloud.clock.advance(2)
    from xenith.core.errors import Unauthenticated

    with pytest.raises(Unauthenticated):
        await other.authenticate(token)
    await other.close()


async def test_a_default_project_is_taken_when_no_scope_is_named(cloud):
    user, project, _ = await _demo(cloud)
    body = {"user": {"default_project_id": project}}
    await cloud.admin.patch(f"/users/{user}", json=body)
    token = (await cloud.sign_in("demo", "demo-password")).json()["token"]
    assert token["project"]["name"] == "demo"
    explicit = (await cloud.sign_in("demo", "demo-password", scope="unscoped")).json()["token"]
    assert "project" not in explicit


async def test_what_the_token_opens_is_listed(cloud):
    own = cloud.client(await cloud.token())
    projects = (await own.get("/auth/projects")).json()["projects"]
    assert [project["name"] for project in projects] == ["admin"]
    assert (await own.get("/auth/domains")).json()["domains"] == []
    assert (await own.get("/auth/system")).json()["system"] == [{"all": True}]


async def test_version_documents_need_no_token(cloud):
    root = await cloud.open.get("http://cloud/identity/")
    assert root.status_code == 300
    assert root.headers["location"] == "http://cloud/identity/v3/"
    assert root.json()["versions"]["values"][0]["id"] == "v3.14"
    version = (await cloud.open.get("http://cloud/identity/v3/")).json()["version"]
    assert version["links"][0]["href"] == "http://cloud/identity/v3/"
    home = await cloud.open.get("/", headers={"Accept": "application/json-home"})
    assert home.headers["content-type"] == "application/json-home"
