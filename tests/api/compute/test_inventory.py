"""Hypervisors, services and zones: three views of hosts, at the versions where they differ."""

from __future__ import annotations

import json

import pytest

from xenith.compute.endpoints.hypervisors import version_number


@pytest.fixture
async def host(cloud):
    return await cloud.add_host("host1")


async def service_id(cloud, index=0):
    return (await cloud.get("/os-services", at="2.53"))["services"][index]["id"]


# -- hypervisors


async def test_a_hypervisor_shows_what_the_host_has_and_what_is_used(cloud, host):
    await cloud.add_server("a", host_id=host, vcpus=2, ram=1024, disk=20)
    await cloud.add_server("b", host_id=host, task_state="rebooting")
    shown = (await cloud.get("/os-hypervisors/1"))["hypervisor"]
    assert shown["memory_mb"] == 8192
    assert shown["memory_mb_used"] == 1536
    assert shown["free_ram_mb"] == 6656
    assert shown["local_gb_used"] == 21
    assert shown["vcpus_used"] == 3
    assert shown["running_vms"] == 2
    assert shown["current_workload"] == 1
    assert shown["hypervisor_version"] == 4017005
    assert shown["host_ip"] == "192.0.2.7"
    assert shown["service"] == {"host": "host1", "id": 1, "disabled_reason": None}
    assert json.loads(shown["cpu_info"])["vendor"] == "GenuineIntel"
    later = (await cloud.get("/os-hypervisors/1", at="2.28"))["hypervisor"]
    assert later["cpu_info"]["features"] == ["sse", "avx"]


async def test_ids_become_uuids_at_2_53_and_sizes_go_at_2_88(cloud, host):
    assert (await cloud.ask("GET", "/os-hypervisors/1", at="2.53")).status_code == 400
    at53 = (await cloud.get(f"/os-hypervisors/{host}", at="2.53"))["hypervisor"]
    assert at53["id"] == host
    assert len(at53["service"]["id"]) == 36
    at87 = (await cloud.get("/os-hypervisors/detail", at="2.87"))["hypervisors"][0]
    at88 = (await cloud.get("/os-hypervisors/detail", at="2.88"))["hypervisors"][0]
    assert set(at87) == set(at53)
    assert set(at88) == {
        "id", "hypervisor_hostname", "state", "status", "host_ip", "hypervisor_type",
        "hypervisor_version", "service", "uptime",
    }  # fmt: skip
    for path in ("statistics", f"{host}/uptime"):
        assert (await cloud.ask("GET", f"/os-hypervisors/{path}", at="2.88")).status_code == 404


async def test_a_host_that_never_answered_is_shown_with_nothing(cloud):
    await cloud.add_host("new", facts=None, url="http://[2001:db8::1]:80")
    shown = (await cloud.get("/os-hypervisors/1"))["hypervisor"]
    assert (shown["memory_mb"], shown["vcpus"], shown["hypervisor_version"]) == (0, 0, 0)
    assert shown["host_ip"] == "2001:db8::1"


@pytest.mark.parametrize("path", ["9", "x", "9" * 30])
async def test_an_unknown_hypervisor_is_not_found(cloud, host, path):
    assert (await cloud.ask("GET", f"/os-hypervisors/{path}")).status_code == 404


async def test_servers_are_shown_with_hypervisors_when_asked_for(cloud, host):
    await cloud.add_host("host2")
    server = await cloud.add_server("a", host_id=host)
    listed = [{"uuid": server, "name": "a"}]
    old = (await cloud.get("/os-hypervisors/host/servers"))["hypervisors"]
    assert [item.get("servers") for item in old] == [listed, None]
    at53 = (await cloud.get("/os-hypervisors?with_servers=true", at="2.53"))["hypervisors"]
    assert [item.get("servers") for item in at53] == [listed, None]
    at75 = (await cloud.get("/os-hypervisors?with_servers=1", at="2.75"))["hypervisors"]
    assert [item.get("servers") for item in at75] == [listed, []]
    one = await cloud.get(f"/os-hypervisors/{host}?with_servers=1", at="2.53")
    assert one["hypervisor"]["servers"] == listed
    assert "servers" not in (await cloud.get("/os-hypervisors"))["hypervisors"][0]


async def test_hypervisors_are_found_by_a_part_of_their_name(cloud, host):
    found = (await cloud.get("/os-hypervisors/ost/search"))["hypervisors"]
    assert [item["hypervisor_hostname"] for item in found] == ["host1"]
    # A per cent sign is no wild card.
    assert (await cloud.ask("GET", "/os-hypervisors/h%25/search")).status_code == 404
    assert (await cloud.ask("GET", "/os-hypervisors/ost/search", at="2.53")).status_code == 404
    query = "/os-hypervisors?hypervisor_hostname_pattern="
    assert len((await cloud.get(query + "ost", at="2.53"))["hypervisors"]) == 1
    assert (await cloud.ask("GET", query + "none", at="2.53")).status_code == 404
    assert (await cloud.ask("GET", query + "ost&limit=1", at="2.53")).status_code == 400


async def test_hypervisors_page_from_2_33_on(cloud):
    for name in ("a", "b", "c"):
        await cloud.add_host(name)
    assert len((await cloud.get("/os-hypervisors?limit=1"))["hypervisors"]) == 3
    for at in ("2.33", "2.53"):
        body = await cloud.get("/os-hypervisors?limit=2", at=at)
        assert [item["hypervisor_hostname"] for item in body["hypervisors"]] == ["a", "b"]
        following = body["hypervisors_links"][0]["href"].removeprefix("http://cloud/compute/v2.1")
        body = await cloud.get(following, at=at)
        assert [item["hypervisor_hostname"] for item in body["hypervisors"]] == ["c"]
    assert (await cloud.ask("GET", "/os-hypervisors?marker=9", at="2.33")).status_code == 400


async def test_statistics_add_up_the_enabled_hosts(cloud, host):
    await cloud.add_host("off", is_enabled=False)
    await cloud.add_host("on")
    sums = (await cloud.get("/os-hypervisors/statistics"))["hypervisor_statistics"]
    assert (sums["count"], sums["memory_mb"], sums["vcpus"]) == (2, 16384, 8)


async def test_uptime_is_told_when_the_host_told_it(cloud, host, world):
    assert (await cloud.ask("GET", "/os-hypervisors/1/uptime")).status_code == 501
    since = world.clock.now() - 90_000
    second = await cloud.add_host("told", facts={"booted_at": since})
    shown = (await cloud.get("/os-hypervisors/2/uptime"))["hypervisor"]
    assert shown["uptime"] == "up 1 days,  1:00"
    await cloud.take_down(second)
    assert (await cloud.ask("GET", "/os-hypervisors/2/uptime")).status_code == 400


async def test_hypervisors_are_for_admins(cloud, host):
    for path in ("", "/detail", "/1", "/1/uptime", "/statistics"):
        answer = await cloud.ask("GET", f"/os-hypervisors{path}", by="manager")
        assert answer.status_code == 403


def test_a_version_becomes_one_number():
    assert version_number("8.2") == 8002000
    assert version_number(1000) == 1000
    assert version_number("") == 0


# -- services


async def test_services_are_listed_by_host_and_binary(cloud, host):
    await cloud.add_host("host2", is_enabled=False, disabled_reason="broken")
    await cloud.take_down(host)
    body = await cloud.get("/os-services?binary=nova-compute")
    first, second = body["services"]
    assert first == {
        "id": 1,
        "binary": "nova-compute",
        "host": "host1",
        "zone": "nova",
        "status": "enabled",
        "state": "down",
        "updated_at": "2023-11-14T22:13:20.000000",
        "disabled_reason": None,
    }
    assert (second["status"], second["disabled_reason"]) == ("disabled", "broken")
    assert len((await cloud.get("/os-services?host=host2"))["services"]) == 1
    assert (await cloud.get("/os-services?binary=none&host=host1"))["services"] == []
    assert (await cloud.get("/os-services", at="2.11"))["services"][0]["forced_down"] is False


async def test_a_service_is_disabled_and_enabled_by_the_old_routes_until_2_52(cloud, host):
    body = {"host": "host1", "binary": "nova-compute"}
    reason = {**body, "disabled_reason": "maintenance"}
    answer = await cloud.ask("PUT", "/os-services/disable-log-reason", json=reason)
    assert answer.json()["service"] == {**reason, "status": "disabled"}
    answer = await cloud.ask("PUT", "/os-services/enable", json=body)
    assert answer.json()["service"] == {**body, "status": "enabled"}
    answer = await cloud.ask("PUT", "/os-services/disable", json=body)
    assert answer.json()["service"] == {**body, "status": "disabled"}
    # The reason went when the service was enabled.
    assert (await cloud.get("/os-services"))["services"][0]["disabled_reason"] is None
    down = {**body, "forced_down": True}
    assert (await cloud.ask("PUT", "/os-services/force-down", json=down)).status_code == 404
    answer = await cloud.ask("PUT", "/os-services/force-down", at="2.11", json=down)
    assert answer.json()["service"] == down
    assert (await cloud.get("/os-services"))["services"][0]["state"] == "down"
    assert cloud.told == [host] * 4
    for path in ("enable", "disable", "disable-log-reason"):
        answer = await cloud.ask("PUT", f"/os-services/{path}", at="2.53", json=body)
        assert answer.status_code in (400, 404)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"host": "none", "binary": "nova-compute"}, 404),
        ({"host": "host1", "binary": "nova-scheduler"}, 404),
        ({"host": "host1"}, 400),
        ({"host": "host1", "binary": "nova-compute", "x": 1}, 400),
    ],
)
async def test_what_is_no_service_is_not_disabled(cloud, host, body, code):
    assert (await cloud.ask("PUT", "/os-services/disable", json=body)).status_code == code


async def test_a_service_is_changed_by_its_id_from_2_53_on(cloud, host):
    path = f"/os-services/{await service_id(cloud)}"

    async def put(body, at="2.53"):
        return await cloud.ask("PUT", path, at=at, json=body)

    answer = await put({"status": "disabled", "disabled_reason": "why"})
    assert answer.json()["service"]["status"] == "disabled"
    assert answer.json()["service"]["disabled_reason"] == "why"
    answer = await put({"forced_down": "true"})
    assert answer.json()["service"]["forced_down"] is True
    assert answer.json()["service"]["status"] == "disabled"
    for wrong in (
        {},
        {"disabled_reason": "why"},
        {"status": "enabled", "disabled_reason": "why"},
        {"status": "off"},
        {"status": "disabled", "disabled_reason": ""},
        {"host": "x"},
    ):
        assert (await put(wrong)).status_code == 400, wrong
    assert (await put({"status": "enabled"}, at="2.52")).status_code == 404
    body = {"status": "enabled"}
    assert (await cloud.ask("PUT", "/os-services/1", at="2.53", json=body)).status_code == 400
    unknown = "/os-services/00000000-0000-4000-8000-000000000000"
    assert (await cloud.ask("PUT", unknown, at="2.53", json=body)).status_code == 404


async def test_a_host_with_servers_is_not_taken_out_and_an_empty_one_is(cloud, host):
    await cloud.add_server("a", host_id=host)
    await cloud.add_host("empty")
    assert (await cloud.ask("DELETE", "/os-services/1")).status_code == 409
    second = await service_id(cloud, 1)
    assert (await cloud.ask("DELETE", f"/os-services/{second}", at="2.53")).status_code == 204
    assert (await cloud.ask("DELETE", f"/os-services/{second}", at="2.53")).status_code == 404
    assert (await cloud.ask("DELETE", "/os-services/x")).status_code == 400
    assert (await cloud.ask("DELETE", "/os-services/1", at="2.53")).status_code == 400
    assert len((await cloud.get("/os-services"))["services"]) == 1


# -- zones and migrations


async def test_zones_are_shown_to_all_and_their_hosts_to_admins(cloud, host):
    await cloud.add_host("off", zone="quiet", is_enabled=False)
    body = await cloud.get("/os-availability-zone", by="reader")
    assert body["availabilityZoneInfo"] == [
        {"zoneName": "nova", "zoneState": {"available": True}, "hosts": None},
        {"zoneName": "quiet", "zoneState": {"available": False}, "hosts": None},
    ]
    await cloud.take_down(host)
    body = await cloud.get("/os-availability-zone/detail")
    assert body["availabilityZoneInfo"][0]["hosts"]["host1"]["nova-compute"] == {
        "active": True,
        "available": False,
        "updated_at": "2023-11-14T22:13:20.000000",
    }
    answer = await cloud.ask("GET", "/os-availability-zone/detail", by="manager")
    assert answer.status_code == 403


async def test_there_are_no_migrations(cloud):
    assert await cloud.get("/os-migrations", by="manager") == {"migrations": []}
