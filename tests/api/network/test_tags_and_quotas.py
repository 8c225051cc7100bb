"""Tags, quotas and what a client finds before it starts."""

from __future__ import annotations

import pytest

from xenith.network.records.quotas import recount_usage


@pytest.mark.parametrize("noun", ["network", "subnet", "port"])
async def test_tags_are_put_found_and_taken(cloud, noun):
    subnet = await cloud.subnet()
    made = subnet if noun == "subnet" else None
    made = made or await cloud.make(
        noun, **({"network_id": subnet["network_id"]} if noun == "port" else {})
    )
    path = f"/{noun}s/{made['id']}/tags"
    client = cloud.as_()
    assert (await client.put(path, json={"tags": ["red", "blue", "red"]})).json() == {
        "tags": ["red", "blue"]
    }
    assert (await client.put(f"{path}/green")).status_code == 201
    assert (await client.get(f"{path}/green")).status_code == 204
    assert (await client.get(f"{path}/Green")).status_code == 404
    assert (await client.post(path, json={"tags": ["blue", 'a"b']})).status_code == 200
    shown = (await client.get(f"/{noun}s/{made['id']}")).json()[noun]
    assert shown["tags"] == ["red", "blue", "green", 'a"b']
    assert shown["revision_number"] == 4
    assert (await client.delete(f"{path}/red")).status_code == 204
    assert (await client.delete(f"{path}/red")).status_code == 404
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).json() == {"tags": []}
    for bad in ({"tags": [""]}, {"tags": ["x" * 256]}, {"tags": "x"}, {"other": []}):
        assert (await client.put(path, json=bad)).status_code == 400
    assert (await cloud.as_("member-2").get(path)).status_code == 404
    assert (await cloud.as_("reader").put(f"{path}/x")).status_code == 403


async def test_lists_are_filtered_by_tags(cloud):
    for name, tags in (("a", ["red"]), ("b", ["red", "blue"]), ("c", []), ("d", ["Red", 'x"red'])):
        made = await cloud.make("network", name=name)
        await cloud.as_().put(f"/networks/{made['id']}/tags", json={"tags": tags})

    async def found(**query):
        return "".join(await cloud.list("network", sort_key="name", **query))

    assert await found(tags="red") == "ab"
    assert await found(tags="red,blue") == "b"
    assert await found(**{"tags-any": "blue,Red"}) == "bd"
    assert await found(**{"not-tags": "red,blue"}) == "acd"
    assert await found(**{"not-tags-any": "red,Red"}) == "c"


async def test_quotas_are_shown_changed_and_given_back(cloud):
    admin, member = cloud.as_("admin"), cloud.as_()
    defaults = {"network": 100, "subnet": 100, "port": 500}
    assert (await member.get("/quotas/p1")).json() == {"quota": defaults}
    assert (await member.get("/quotas/p2")).status_code == 403
    assert (await member.put("/quotas/p1", json={"quota": {"port": 1}})).status_code == 403
    changed = await admin.put("/quotas/p1", json={"quota": {"port": 1, "network": -1}})
    assert changed.json() == {"quota": {**defaults, "port": 1, "network": -1}}
    listed = (await admin.get("/quotas")).json()["quotas"]
    assert [one["project_id"] for one in listed] == ["p1"]
    assert (await member.get("/quotas/p1/default")).json() == {"quota": defaults}
    assert (await admin.delete("/quotas/p1")).status_code == 204
    assert (await admin.delete("/quotas/p1")).status_code == 404
    assert (await member.get("/quotas/p1")).json() == {"quota": defaults}
    for bad in ({"port": -2}, {"port": 2**40}, {"port": "x"}, {"nonsense": 1}):
        assert (await admin.put("/quotas/p1", json={"quota": bad})).status_code == 400


async def test_nothing_is_made_above_a_quota_and_usage_is_what_there_is(cloud):
    admin = cloud.as_("admin")
    await admin.put("/quotas/p1", json={"quota": {"port": 2, "network": 1, "subnet": 1}})
    subnet = await cloud.subnet()
    network_id = subnet["network_id"]
    refused = await cloud.make("network", expect=409)
    assert refused["type"] == "OverQuota"
    assert refused["message"] == "Quota exceeded for resources: ['network']."
    body = {"network_id": network_id, "ip_version": 4, "cidr": "10.9.0.0/24"}
    assert (await cloud.make("subnet", expect=409, **body))["type"] == "OverQuota"
    port = await cloud.make("port", network_id=network_id)
    await cloud.make("port", network_id=network_id)
    assert (await cloud.make("port", expect=409, network_id=network_id))["type"] == "OverQuota"
    await cloud.as_().delete(f"/ports/{port['id']}")
    details = (await cloud.as_().get("/quotas/p1/details.json")).json()["quota"]
    assert details["port"] == {"limit": 2, "used": 1, "reserved": 0}
    assert details["network"] == {"limit": 1, "used": 1, "reserved": 0}
    assert await cloud.db.run(recount_usage) == 0


async def test_versions_and_extensions_are_found(cloud):
    anonymous = cloud.as_("")
    versions = (await anonymous.get("http://cloud/network/")).json()["versions"]
    assert versions == [
        {
            "id": "v2.0",
            "status": "CURRENT",
            "links": [{"rel": "self", "href": "http://cloud/network/v2.0/"}],
        }
    ]
    resources = (await anonymous.get("http://cloud/network/v2.0/")).json()["resources"]
    assert [one["collection"] for one in resources] == ["networks", "subnets", "ports"]
    client = cloud.as_()
    aliases = [one["alias"] for one in (await client.get("/extensions")).json()["extensions"]]
    assert "quotas" in aliases
    assert "router" not in aliases
    shown = (await client.get("/extensions/standard-attr-tag")).json()["extension"]
    assert shown["alias"] == "standard-attr-tag"
    assert (await client.get("/extensions/router")).status_code == 404
    missing = await client.get("/routers", headers={"Accept": "application/json"})
    assert missing.status_code == 404
    assert "NeutronError" not in missing.json()


async def test_there_is_one_zone_and_no_agent(cloud):
    zones = (await cloud.as_().get("/availability_zones")).json()["availability_zones"]
    assert zones == [{"name": "nova", "resource": "network", "state": "available"}]
    assert (await cloud.as_("admin").get("/agents")).json() == {"agents": []}
    assert (await cloud.as_("admin").get("/agents/x")).status_code == 404
    assert (await cloud.as_().get("/agents")).status_code == 403
