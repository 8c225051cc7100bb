"""Flavors through the API: what each version shows, who sees which, and what is refused."""

from __future__ import annotations

import pytest

BODY = {"name": "small", "ram": 1024, "vcpus": 2, "disk": 10}


async def make(cloud, *, at="2.1", **fields):
    answer = await cloud.ask("POST", "/flavors", at=at, json={"flavor": {**BODY, **fields}})
    assert answer.status_code == 200, answer.text
    return answer.json()["flavor"]


async def names(cloud, query="", **kwargs):
    body = await cloud.get(f"/flavors{query}", **kwargs)
    return [flavor["name"] for flavor in body["flavors"]]


async def test_a_flavor_is_shown_as_each_version_has_it(cloud):
    made = await make(cloud, id="10", swap="64", at="2.55", description="for tests")
    assert made["id"] == "10"
    assert made["swap"] == 64
    assert made["OS-FLV-EXT-DATA:ephemeral"] == 0
    assert made["os-flavor-access:is_public"] is True
    assert made["rxtx_factor"] == 1.0
    assert made["links"][0] == {"rel": "self", "href": "http://cloud/compute/v2.1/flavors/10"}
    fields = {
        at: set((await cloud.get("/flavors/10", at=at, by="reader"))["flavor"])
        for at in ("2.1", "2.54", "2.55", "2.60", "2.61", "2.96")
    }
    assert "description" not in fields["2.54"]
    assert fields["2.55"] - fields["2.54"] == {"description"}
    assert fields["2.61"] - fields["2.60"] == {"extra_specs"}
    assert fields["2.96"] == fields["2.61"]


async def test_no_swap_is_the_empty_string_until_2_75_and_zero_after(cloud):
    await make(cloud, id="10")
    assert (await cloud.get("/flavors/10", at="2.74"))["flavor"]["swap"] == ""
    assert (await cloud.get("/flavors/10", at="2.75"))["flavor"]["swap"] == 0


async def test_an_id_is_made_when_none_or_auto_is_asked_for_and_a_number_is_taken_as_text(cloud):
    assert len((await make(cloud, name="a", id=None))["id"]) == 36
    assert len((await make(cloud, name="b", id="auto"))["id"]) == 36
    assert (await make(cloud, name="c", id=1234))["id"] == "1234"


@pytest.mark.parametrize("fields", [{"name": "other", "id": "10"}, {"name": "small", "id": "11"}])
async def test_a_name_or_id_that_is_taken_is_a_conflict(cloud, fields):
    await make(cloud, id="10")
    answer = await cloud.ask("POST", "/flavors", json={"flavor": {**BODY, **fields}})
    assert answer.status_code == 409


@pytest.mark.parametrize(
    "fields",
    [
        {"ram": 0},
        {"ram": -1},
        {"vcpus": "none"},
        {"vcpus": 0},
        {"disk": -1},
        {"swap": -1},
        {"disk": 2**31},
        {"rxtx_factor": 0},
        {"rxtx_factor": "0"},
        {"name": ""},
        {"name": " "},
        {"name": "x" * 256},
        {"id": "a/b"},
        {"id": ""},
        {"description": "before 2.55"},
        {"unknown": 1},
    ],
)
async def test_a_wrong_body_makes_nothing(cloud, fields):
    answer = await cloud.ask("POST", "/flavors", json={"flavor": {**BODY, **fields}})
    assert answer.status_code == 400, answer.text
    assert "badRequest" in answer.json()
    assert await names(cloud) == []


async def test_a_private_flavor_is_seen_by_the_projects_it_was_given_to(cloud):
    await make(cloud, name="open", id="1")
    await make(cloud, name="closed", id="2", **{"os-flavor-access:is_public": False})
    assert await names(cloud, by="member") == ["open"]
    assert (await cloud.ask("GET", "/flavors/2", by="member")).status_code == 404
    answer = await cloud.ask(
        "POST", "/flavors/2/action", json={"addTenantAccess": {"tenant": "p1"}}
    )
    assert answer.json() == {"flavor_access": [{"flavor_id": "2", "tenant_id": "p1"}]}
    assert await names(cloud, by="member") == ["open", "closed"]
    assert await names(cloud, by="member-2") == ["open"]
    assert (await cloud.ask("GET", "/flavors/2", by="member")).status_code == 200
    # Only an admin chooses.
    assert await names(cloud, "?is_public=None", by="member-2") == ["open"]
    assert await names(cloud, "?is_public=None") == ["open", "closed"]
    assert await names(cloud, "?is_public=false") == ["closed"]
    answer = await cloud.ask(
        "POST", "/flavors/2/action", json={"removeTenantAccess": {"tenant": "p1"}}
    )
    assert answer.json() == {"flavor_access": []}
    assert await names(cloud, by="member") == ["open"]


async def test_access_is_refused_where_it_makes_no_sense(cloud):
    await make(cloud, id="1")
    await make(cloud, name="closed", id="2", **{"os-flavor-access:is_public": False})

    async def code(flavor, action, project="p1", at="2.7"):
        body = {action: {"tenant": project}}
        return (await cloud.ask("POST", f"/flavors/{flavor}/action", at=at, json=body)).status_code

    assert await code("1", "addTenantAccess") == 409
    assert await code("1", "addTenantAccess", at="2.6") == 200
    assert await code("2", "addTenantAccess", project="nobody") == 400
    assert await code("2", "addTenantAccess") == 200
    assert await code("2", "addTenantAccess") == 409
    assert await code("2", "removeTenantAccess", project="p2") == 404
    assert await code("9", "addTenantAccess") == 404
    assert (await cloud.ask("GET", "/flavors/1/os-flavor-access")).status_code == 404
    assert (await cloud.ask("GET", "/flavors/2/os-flavor-access", by="member")).status_code == 403


async def test_a_list_is_filtered_sorted_and_paged(cloud):
    for index, ram in enumerate((512, 2048, 1024)):
        await make(cloud, name=f"f{index}", id=str(index), ram=ram, disk=index)
    assert await names(cloud, "?minRam=1000") == ["f1", "f2"]
    assert await names(cloud, "?minDisk=1&minRam=1500") == ["f1"]
    assert await names(cloud, "?sort_key=memory_mb&sort_dir=desc") == ["f1", "f2", "f0"]
    # Nothing has a description, so the id decides; what is empty has its place in the order.
    body = await cloud.get("/flavors?sort_key=description&limit=2")
    assert [flavor["name"] for flavor in body["flavors"]] == ["f0", "f1"]
    following = body["flavors_links"][0]["href"].removeprefix("http://cloud/compute/v2.1")
    body = await cloud.get(following)
    assert [flavor["name"] for flavor in body["flavors"]] == ["f2"]
    assert "flavors_links" not in body
    assert await names(cloud, "?limit=0") == []


@pytest.mark.parametrize(
    "query",
    [
        "minRam=x",
        "minDisk=-1",
        "limit=-1",
        "limit=x",
        "marker=none",
        "is_public=x",
        "sort_key=x",
        "sort_key=extra_specs",
        "sort_dir=up",
    ],
)
async def test_a_query_that_cannot_be_read_is_refused(cloud, query):
    assert (await cloud.ask("GET", f"/flavors/detail?{query}")).status_code == 400


async def test_unknown_query_names_are_refused_from_2_75_on(cloud):
    assert (await cloud.ask("GET", "/flavors?x=1", at="2.74")).status_code == 200
    assert (await cloud.ask("GET", "/flavors?x=1", at="2.75")).status_code == 400


async def test_a_description_is_changed_from_2_55_on(cloud):
    await make(cloud, id="1")
    body = {"flavor": {"description": "new"}}
    assert (await cloud.ask("PUT", "/flavors/1", at="2.54", json=body)).status_code == 404
    answer = await cloud.ask("PUT", "/flavors/1", at="2.55", json=body)
    assert answer.json()["flavor"]["description"] == "new"
    assert (await cloud.ask("PUT", "/flavors/2", at="2.55", json=body)).status_code == 404
    wrong = {"flavor": {"name": "new"}}
    assert (await cloud.ask("PUT", "/flavors/1", at="2.55", json=wrong)).status_code == 400


async def test_a_deleted_flavor_is_gone_with_its_accesses(cloud):
    await make(cloud, id="1", **{"os-flavor-access:is_public": False})
    await cloud.ask("POST", "/flavors/1/action", json={"addTenantAccess": {"tenant": "p1"}})
    assert (await cloud.ask("DELETE", "/flavors/1")).status_code == 202
    assert (await cloud.ask("DELETE", "/flavors/1")).status_code == 404
    await make(cloud, id="1", **{"os-flavor-access:is_public": False})
    assert (await cloud.get("/flavors/1/os-flavor-access"))["flavor_access"] == []


async def test_extra_specs_are_added_changed_and_taken_away(cloud):
    await make(cloud, id="1")
    path = "/flavors/1/os-extra_specs"
    specs = {"hw:cpu_policy": "shared", "mine": "1"}
    answer = await cloud.ask("POST", path, json={"extra_specs": specs})
    assert answer.json() == {"extra_specs": specs}
    answer = await cloud.ask("PUT", f"{path}/mine", json={"mine": "2"})
    assert answer.json() == {"mine": "2"}
    assert await cloud.get(f"{path}/mine", by="reader") == {"mine": "2"}
    assert (await cloud.ask("PUT", f"{path}/mine", json={"other": "2"})).status_code == 400
    assert (await cloud.ask("PUT", f"{path}/mine", json={"mine": "2", "b": "3"})).status_code == 400
    assert (await cloud.ask("DELETE", f"{path}/mine")).status_code == 200
    assert (await cloud.ask("DELETE", f"{path}/mine")).status_code == 404
    assert (await cloud.ask("GET", f"{path}/mine")).status_code == 404
    assert await cloud.get(path) == {"extra_specs": {"hw:cpu_policy": "shared"}}
    assert (await cloud.ask("POST", path, by="member", json={"extra_specs": {}})).status_code == 403


async def test_known_extra_specs_are_checked_from_2_86_on(cloud):
    await make(cloud, id="1")

    async def code(name, value, at):
        body = {"extra_specs": {name: value}}
        return (await cloud.ask("POST", "/flavors/1/os-extra_specs", at=at, json=body)).status_code

    assert await code("hw:cpu_policy", "never", "2.85") == 200
    assert await code("hw:cpu_policy", "never", "2.86") == 400
    assert await code("hw:no_such_thing", "1", "2.86") == 400
    assert await code("custom:anything", "1", "2.86") == 200


async def test_the_ordinary_flavors_are_made_once_in_an_empty_cloud(cloud):
    await cloud.compute.flavors.ensure_defaults()
    assert "m1.tiny" in await names(cloud)
    await cloud.ask("DELETE", "/flavors/1")
    await cloud.compute.flavors.ensure_defaults()
    assert "m1.tiny" not in await names(cloud)
