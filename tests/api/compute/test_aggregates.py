"""Aggregates through the API, and the zones that hosts have through them."""

from __future__ import annotations

import pytest


async def make(cloud, name="a", **fields):
    body = {"aggregate": {"name": name, **fields}}
    answer = await cloud.ask("POST", "/os-aggregates", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["aggregate"]["id"]


async def act(cloud, number, action, at="2.1", **value):
    return await cloud.ask("POST", f"/os-aggregates/{number}/action", at=at, json={action: value})


async def zone_of(cloud, name):
    return (await cloud.get(f"/os-services?host={name}"))["services"][0]["zone"]


async def test_an_aggregate_is_made_shown_changed_and_deleted(cloud):
    body = {"aggregate": {"name": "a", "availability_zone": "london"}}
    made = (await cloud.ask("POST", "/os-aggregates", json=body)).json()["aggregate"]
    # The answer to a create alone has neither hosts nor metadata.
    assert set(made) == {
        "id", "name", "availability_zone", "created_at", "updated_at", "deleted", "deleted_at"
    }  # fmt: skip
    shown = (await cloud.get("/os-aggregates/1", at="2.41"))["aggregate"]
    assert shown["metadata"] == {"availability_zone": "london"}
    assert len(shown["uuid"]) == 36
    assert "uuid" not in (await cloud.get("/os-aggregates", at="2.40"))["aggregates"][0]
    body = {"aggregate": {"name": "b", "availability_zone": None}}
    changed = (await cloud.ask("PUT", "/os-aggregates/1", json=body)).json()["aggregate"]
    assert (changed["name"], changed["availability_zone"]) == ("b", None)
    assert changed["metadata"] == {}
    assert (await cloud.ask("DELETE", "/os-aggregates/1")).status_code == 200
    assert (await cloud.ask("GET", "/os-aggregates/1")).status_code == 404
    assert (await cloud.ask("DELETE", "/os-aggregates/1")).status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": 1},
        {"name": "n", "x": 1},
        {"name": "n", "availability_zone": "a:b"},
        {"name": "n", "availability_zone": ""},
    ],
)
async def test_a_wrong_aggregate_is_refused(cloud, fields):
    answer = await cloud.ask("POST", "/os-aggregates", json={"aggregate": fields})
    assert answer.status_code == 400


async def test_a_name_is_taken_once_and_an_empty_change_is_refused(cloud):
    await make(cloud, "a")
    second = await make(cloud, "b")
    answer = await cloud.ask("POST", "/os-aggregates", json={"aggregate": {"name": "a"}})
    assert answer.status_code == 409
    path = f"/os-aggregates/{second}"
    answer = await cloud.ask("PUT", path, json={"aggregate": {"name": "a"}})
    assert answer.status_code == 409
    assert (await cloud.ask("PUT", path, json={"aggregate": {}})).status_code == 400
    assert (await cloud.ask("GET", "/os-aggregates/x")).status_code == 400


async def test_a_host_takes_the_zone_of_its_aggregate_and_its_cell_is_told(cloud):
    host = await cloud.add_host("host1")
    number = await make(cloud, availability_zone="london")
    added = (await act(cloud, number, "add_host", host="host1")).json()["aggregate"]
    assert added["hosts"] == ["host1"]
    assert await zone_of(cloud, "host1") == "london"
    await act(cloud, number, "set_metadata", metadata={"availability_zone": "paris", "k": "v"})
    assert await zone_of(cloud, "host1") == "paris"
    assert (await cloud.ask("DELETE", f"/os-aggregates/{number}")).status_code == 400
    removed = (await act(cloud, number, "remove_host", host="host1")).json()["aggregate"]
    assert removed["hosts"] == []
    assert await zone_of(cloud, "host1") == "nova"
    assert cloud.told == [host] * 3


async def test_a_host_is_in_one_zone_and_does_not_leave_it_with_servers(cloud):
    host = await cloud.add_host("host1")
    london = await make(cloud, "l", availability_zone="london")
    paris = await make(cloud, "p", availability_zone="paris")
    plain = await make(cloud, "plain")
    assert (await act(cloud, london, "add_host", host="host1")).status_code == 200
    assert (await act(cloud, london, "add_host", host="host1")).status_code == 409
    assert (await act(cloud, paris, "add_host", host="host1")).status_code == 409
    assert (await act(cloud, plain, "add_host", host="host1")).status_code == 200
    await cloud.add_server("a", host_id=host)
    assert (await act(cloud, london, "remove_host", host="host1")).status_code == 409
    assert (await act(cloud, plain, "remove_host", host="host1")).status_code == 200
    shown = (await cloud.get(f"/os-aggregates/{london}"))["aggregate"]
    assert shown["hosts"] == ["host1"]
    assert await zone_of(cloud, "host1") == "london"


async def test_unknown_hosts_and_aggregates_are_not_found(cloud):
    number = await make(cloud)
    await cloud.add_host("host1")
    assert (await act(cloud, number, "add_host", host="none")).status_code == 404
    assert (await act(cloud, number, "remove_host", host="host1")).status_code == 404
    assert (await act(cloud, 99, "add_host", host="host1")).status_code == 404
    assert (await act(cloud, number, "add_host")).status_code == 400


async def test_null_takes_an_item_of_metadata_away(cloud):
    number = await make(cloud)
    await act(cloud, number, "set_metadata", metadata={"a": "1", "b": "2"})
    answer = await act(cloud, number, "set_metadata", metadata={"a": None})
    assert answer.json()["aggregate"]["metadata"] == {"b": "2"}


async def test_aggregates_are_for_admins(cloud):
    assert (await cloud.ask("GET", "/os-aggregates", by="manager")).status_code == 403


IMAGE = "11111111-0000-4000-8000-000000000001"


async def test_what_cannot_be_cached_is_refused(cloud):
    number = await make(cloud)

    async def cache(*ids, of=number, at="2.81", **options):
        body = {"cache": [{"id": one} for one in ids]}
        path = f"/os-aggregates/{of}/images"
        return (await cloud.ask("POST", path, json=body, at=at, **options)).status_code

    assert await cache(IMAGE, at="2.80") == 404
    assert await cache(IMAGE, of=99) == 404
    assert await cache(IMAGE) == 404, "there is no such image"
    assert await cache(IMAGE, IMAGE) == 400
    assert await cache("not-a-uuid") == 400
    assert await cache() == 400
    assert await cache(IMAGE, by="manager") == 403
