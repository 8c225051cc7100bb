"""Usage through the API: hours of servers within a period."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from xenith.core.clock import iso_micros

DAY = 86400


@pytest.fixture
def now(world):
    return world.clock.now()


def period(start, end):
    return f"?start={quote(iso_micros(start)[:-1])}&end={quote(iso_micros(end)[:-1])}"


async def test_a_server_counts_for_the_part_of_the_period_in_which_it_was_there(cloud, now):
    server = await cloud.add_server("a", vcpus=2, ram=1024, disk=5, launched_at=now - 7200)
    path = f"/os-simple-tenant-usage/p1{period(now - 3600, now + DAY)}"
    usage = (await cloud.get(path, by="reader"))["tenant_usage"]
    assert usage["total_hours"] == 1.0
    assert usage["total_vcpus_usage"] == 2.0
    assert usage["total_memory_mb_usage"] == 1024.0
    assert usage["total_local_gb_usage"] == 5.0
    (line,) = usage["server_usages"]
    assert line["instance_id"] == server
    assert (line["hours"], line["uptime"], line["ended_at"]) == (1.0, 7200, None)
    assert (line["flavor"], line["state"]) == ("m1.tiny", "active")
    assert line["started_at"] == "2023-11-14T20:13:20"


async def test_what_ended_before_or_began_after_or_never_ran_does_not_count(cloud, now):
    await cloud.add_server("before", launched_at=now - DAY, terminated_at=now - 7200)
    await cloud.add_server("never", launched_at=None)
    await cloud.add_server("within", launched_at=now - DAY, terminated_at=now - 1800)
    path = f"/os-simple-tenant-usage/p1{period(now - 3600, now)}"
    usage = (await cloud.get(path))["tenant_usage"]
    assert [(line["name"], line["state"]) for line in usage["server_usages"]] == [
        ("within", "terminated")
    ]
    assert usage["total_hours"] == 0.5


async def test_all_projects_are_listed_for_an_admin_and_in_detail_when_asked(cloud, now):
    for project in ("p1", "p2"):
        await cloud.add_server("a", project_id=project, launched_at=now - 3600)
    path = f"/os-simple-tenant-usage{period(now - DAY, now)}"
    usages = (await cloud.get(path))["tenant_usages"]
    assert [(usage["tenant_id"], usage["total_hours"]) for usage in usages] == [
        ("p1", 1.0),
        ("p2", 1.0),
    ]
    assert "server_usages" not in usages[0]
    assert "server_usages" in (await cloud.get(path + "&detailed=1"))["tenant_usages"][0]


async def test_usage_pages_by_server_from_2_40_on(cloud, now):
    for name in "abc":
        await cloud.add_server(name, launched_at=now - 3600)
    path = f"/os-simple-tenant-usage/p1{period(now - DAY, now)}&limit=2"
    assert "tenant_usage_links" not in await cloud.get(path)
    hours = []
    while path:
        body = await cloud.get(path, at="2.40")
        hours.append(body["tenant_usage"]["total_hours"])
        links = body.get("tenant_usage_links", [])
        path = links[0]["href"].removeprefix("http://cloud/compute/v2.1") if links else ""
    assert hours == [2.0, 1.0]
    bad = f"/os-simple-tenant-usage{period(now - DAY, now)}&marker=none"
    assert (await cloud.ask("GET", bad, at="2.40")).status_code == 400


async def test_a_project_without_servers_used_nothing(cloud):
    assert await cloud.get("/os-simple-tenant-usage/p1") == {"tenant_usage": {}}


@pytest.mark.parametrize("query", ["start=x", "end=2020-99-01", "start=2030-01-01&end=2020-01-01"])
async def test_a_period_that_is_none_is_refused(cloud, query):
    assert (await cloud.ask("GET", f"/os-simple-tenant-usage/p1?{query}")).status_code == 400
    assert (await cloud.ask("GET", f"/os-simple-tenant-usage?{query}")).status_code == 400


async def test_a_reader_sees_its_own_projects_usage_only(cloud):
    assert (await cloud.ask("GET", "/os-simple-tenant-usage/p2", by="reader")).status_code == 403
    assert (await cloud.ask("GET", "/os-simple-tenant-usage", by="manager")).status_code == 403
