"""Server groups through the API, and the servers in them."""

from __future__ import annotations

import pytest

from xenith.compute.records.server_groups import groups_of, join_group
from xenith.core.errors import Exhausted, Invalid
from xenith.http import Principal

MEMBER = Principal("u", "u", "default", frozenset({"member"}), project_id="p1")


async def make(cloud, *, by="member", at="2.64", name="g", **fields):
    fields = fields or {"policy": "anti-affinity"}
    body = {"server_group": {"name": name, **fields}}
    return await cloud.ask("POST", "/os-server-groups", by=by, at=at, json=body)


async def test_a_group_is_shown_as_each_version_has_it(cloud):
    group = (await make(cloud, policy="anti-affinity", rules={"max_server_per_host": 3})).json()
    group_id = group["server_group"]["id"]
    assert group["server_group"] == {
        "id": group_id,
        "name": "g",
        "members": [],
        "policy": "anti-affinity",
        "rules": {"max_server_per_host": 3},
        "project_id": "p1",
        "user_id": "user-member",
    }
    path = f"/os-server-groups/{group_id}"
    shown = (await cloud.get(path, by="reader", at="2.12"))["server_group"]
    assert shown == {
        "id": group_id,
        "name": "g",
        "members": [],
        "policies": ["anti-affinity"],
        "metadata": {},
    }
    assert "project_id" in (await cloud.get(path, by="reader", at="2.13"))["server_group"]


@pytest.mark.parametrize(
    ("at", "fields", "code"),
    [
        ("2.1", {"policies": ["affinity"]}, 200),
        ("2.14", {"policies": ["soft-affinity"]}, 400),
        ("2.15", {"policies": ["soft-affinity"]}, 200),
        ("2.1", {"policies": []}, 400),
        ("2.1", {"policies": ["affinity", "anti-affinity"]}, 400),
        ("2.63", {"policy": "affinity"}, 400),
        ("2.64", {"policies": ["affinity"]}, 400),
        ("2.64", {"policy": "affinity"}, 200),
        ("2.64", {"policy": "affinity", "rules": {"max_server_per_host": 3}}, 400),
        ("2.64", {"policy": "anti-affinity", "rules": {"max_server_per_host": 0}}, 400),
        ("2.64", {"policy": "anti-affinity", "rules": {"other": 1}}, 400),
        ("2.64", {"policy": "anti-affinity", "name": ""}, 400),
    ],
)
async def test_policies_and_rules_are_those_of_the_version(cloud, at, fields, code):
    answer = await make(cloud, at=at, **fields)
    assert answer.status_code == code, answer.text


async def test_groups_are_the_projects_and_an_admin_may_list_all(cloud):
    mine = (await make(cloud)).json()["server_group"]["id"]
    await make(cloud, by="member-2", name="other")
    path = f"/os-server-groups/{mine}"

    async def listed(query="", **kwargs):
        body = await cloud.get(f"/os-server-groups{query}", **kwargs)
        return [group["name"] for group in body["server_groups"]]

    assert await listed(by="reader") == ["g"]
    assert await listed("?all_projects", by="reader") == ["g"]
    assert sorted(await listed("?all_projects=1")) == ["g", "other"]
    assert len(await listed("?all_projects=1&limit=1&offset=1")) == 1
    assert (await cloud.ask("GET", path, by="reader-2")).status_code == 404
    assert (await cloud.ask("DELETE", path, by="member-2")).status_code == 404
    assert (await cloud.ask("DELETE", path, by="member")).status_code == 204
    assert (await cloud.ask("DELETE", path, by="member")).status_code == 404


async def test_servers_that_join_are_members_until_they_are_deleted(cloud):
    group_id = (await make(cloud)).json()["server_group"]["id"]
    server = await cloud.add_server("a")
    await cloud.db.run(join_group, group_id, MEMBER, server_ids=[server])
    shown = await cloud.get(f"/os-server-groups/{group_id}", by="reader")
    assert shown["server_group"]["members"] == [server]
    assert await cloud.db.read(groups_of, [server]) == {server: group_id}
    listed = await cloud.get("/os-server-groups", by="reader")
    assert listed["server_groups"][0]["members"] == [server]
    # A group with members may go; the server stays.
    answer = await cloud.ask("DELETE", f"/os-server-groups/{group_id}", by="member")
    assert answer.status_code == 204
    assert await cloud.db.read(groups_of, [server]) == {}


async def test_quotas_bound_the_groups_and_their_members(cloud):
    body = {"quota_set": {"server_groups": 1, "server_group_members": 1}}
    await cloud.ask("PUT", "/os-quota-sets/p1", json=body)
    group_id = (await make(cloud)).json()["server_group"]["id"]
    assert (await make(cloud)).status_code == 403
    servers = [await cloud.add_server(name) for name in "ab"]
    with pytest.raises(Exhausted):
        await cloud.db.run(join_group, group_id, MEMBER, server_ids=servers)
    with pytest.raises(Invalid):
        await cloud.db.run(join_group, "none", MEMBER, server_ids=servers)
    absolute = (await cloud.get("/limits", by="reader"))["limits"]["absolute"]
    assert absolute["totalServerGroupsUsed"] == 1
