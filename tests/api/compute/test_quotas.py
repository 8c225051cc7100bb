"""Quotas and limits through the API, and the usage row that builds claim from."""

from __future__ import annotations

import pytest

from xenith.compute.records import quotas
from xenith.core.errors import Exhausted

NETWORK = {"fixed_ips", "floating_ips", "security_group_rules", "security_groups"}
FILES = {"injected_file_content_bytes", "injected_file_path_bytes", "injected_files"}
GROUPS = {"server_groups", "server_group_members"}
CORE = {"cores", "instances", "key_pairs", "metadata_items", "ram"}


async def claim(cloud, project="p1", *, least=1, most=1, cores=1, ram_mib=512):
    return await cloud.db.run(
        quotas.claim_instances, project, least=least, most=most, cores=cores, ram_mib=ram_mib
    )


@pytest.mark.parametrize(
    ("at", "fields"),
    [
        ("2.1", CORE | GROUPS | FILES | NETWORK),
        ("2.35", CORE | GROUPS | FILES | NETWORK),
        ("2.36", CORE | GROUPS | FILES),
        ("2.56", CORE | GROUPS | FILES),
        ("2.57", CORE | GROUPS),
        ("2.96", CORE | GROUPS),
    ],
)
async def test_a_projects_quotas_show_what_each_version_has(cloud, at, fields):
    for path in ("", "/defaults"):
        shown = (await cloud.get(f"/os-quota-sets/p1{path}", at=at))["quota_set"]
        assert set(shown) == fields | {"id"}
    assert (shown["id"], shown["cores"], shown["instances"], shown["ram"]) == ("p1", 20, 10, 51200)
    detail = (await cloud.get("/os-quota-sets/p1/detail", at=at))["quota_set"]
    assert detail["cores"] == {"limit": 20, "in_use": 0, "reserved": 0}


@pytest.mark.parametrize(
    ("at", "fields"),
    [
        ("2.49", CORE | FILES | NETWORK),
        ("2.50", CORE | FILES | GROUPS),
        ("2.57", CORE | GROUPS),
    ],
)
async def test_a_class_shows_what_each_version_has(cloud, at, fields):
    shown = (await cloud.get("/os-quota-class-sets/default", at=at))["quota_class_set"]
    assert set(shown) == fields | {"id"}


async def test_a_limit_is_set_and_taken_away_again(cloud):
    body = {"quota_set": {"instances": 45, "cores": "-1"}}
    answer = await cloud.ask("PUT", "/os-quota-sets/p1", json=body)
    changed = answer.json()["quota_set"]
    assert "id" not in changed
    assert (changed["instances"], changed["cores"], changed["ram"]) == (45, -1, 51200)
    assert (await cloud.get("/os-quota-sets/p2"))["quota_set"]["instances"] == 10
    assert (await cloud.get("/os-quota-sets/p1/defaults"))["quota_set"]["instances"] == 10
    assert (await cloud.ask("DELETE", "/os-quota-sets/p1")).status_code == 202
    assert (await cloud.get("/os-quota-sets/p1"))["quota_set"]["instances"] == 10


async def test_the_default_class_holds_for_projects_without_limits_of_their_own(cloud):
    await cloud.ask("PUT", "/os-quota-sets/p1", json={"quota_set": {"cores": 5}})
    body = {"quota_class_set": {"cores": 7, "instances": 8}}
    answer = await cloud.ask("PUT", "/os-quota-class-sets/default", json=body)
    assert "id" not in answer.json()["quota_class_set"]
    assert (await cloud.get("/os-quota-sets/p1"))["quota_set"]["cores"] == 5
    assert (await cloud.get("/os-quota-sets/p1"))["quota_set"]["instances"] == 8
    assert (await cloud.get("/os-quota-sets/p2"))["quota_set"]["cores"] == 7
    await cloud.ask("PUT", "/os-quota-class-sets/other", json={"quota_class_set": {"cores": 1}})
    assert (await cloud.get("/os-quota-sets/p2"))["quota_set"]["cores"] == 7


async def test_a_limit_below_what_is_used_needs_force(cloud):
    await claim(cloud, most=3, least=3)
    low = {"quota_set": {"instances": 2}}
    assert (await cloud.ask("PUT", "/os-quota-sets/p1", json=low)).status_code == 400
    forced = {"quota_set": {"instances": 2, "force": "True"}}
    assert (await cloud.ask("PUT", "/os-quota-sets/p1", json=forced)).status_code == 200
    detail = (await cloud.get("/os-quota-sets/p1/detail"))["quota_set"]
    assert detail["instances"] == {"limit": 2, "in_use": 3, "reserved": 0}


@pytest.mark.parametrize(
    ("at", "body"),
    [
        ("2.1", {"instances": -2}),
        ("2.1", {"instances": "many"}),
        ("2.1", {"instances": 2**31}),
        ("2.1", {"instances": None}),
        ("2.1", {"volumes": 1}),
        ("2.36", {"floating_ips": 1}),
        ("2.57", {"injected_files": 1}),
    ],
)
async def test_a_wrong_limit_is_refused(cloud, at, body):
    answer = await cloud.ask("PUT", "/os-quota-sets/p1", at=at, json={"quota_set": body})
    assert answer.status_code == 400, answer.text


async def test_a_project_that_is_not_there_has_no_quotas(cloud):
    for path in ("", "/detail", "/defaults"):
        assert (await cloud.ask("GET", f"/os-quota-sets/none{path}")).status_code == 400
    body = {"quota_set": {"cores": 1}}
    assert (await cloud.ask("PUT", "/os-quota-sets/none", json=body)).status_code == 400


async def test_a_member_reads_its_own_quotas_and_no_others(cloud):
    assert (await cloud.ask("GET", "/os-quota-sets/p1", by="reader")).status_code == 200
    assert (await cloud.ask("GET", "/os-quota-sets/p2", by="reader")).status_code == 403
    body = {"quota_set": {"cores": 1000}}
    assert (await cloud.ask("PUT", "/os-quota-sets/p1", by="manager", json=body)).status_code == 403
    assert (await cloud.ask("GET", "/os-quota-class-sets/default", by="reader")).status_code == 403


async def test_limits_show_maxima_and_uses_as_each_version_has_them(cloud):
    await claim(cloud, most=2, least=2, cores=2, ram_mib=1024)
    fields = {}
    for at in ("2.1", "2.36", "2.39", "2.57"):
        body = (await cloud.get("/limits", by="reader", at=at))["limits"]
        assert body["rate"] == []
        fields[at] = set(body["absolute"])
    assert body["absolute"]["totalInstancesUsed"] == 2
    assert body["absolute"]["totalCoresUsed"] == 4
    assert body["absolute"]["totalRAMUsed"] == 2048
    assert body["absolute"]["maxTotalCores"] == 20
    assert fields["2.1"] - fields["2.36"] == {
        "maxSecurityGroups",
        "maxSecurityGroupRules",
        "maxTotalFloatingIps",
        "totalSecurityGroupsUsed",
        "totalFloatingIpsUsed",
    }
    assert fields["2.36"] - fields["2.39"] == {"maxImageMeta"}
    assert fields["2.39"] - fields["2.57"] == {"maxPersonality", "maxPersonalitySize"}


async def test_only_an_admin_sees_the_limits_of_another_project(cloud):
    await claim(cloud, "p2")
    absolute = (await cloud.get("/limits?tenant_id=p2"))["limits"]["absolute"]
    assert absolute["totalInstancesUsed"] == 1
    assert (await cloud.ask("GET", "/limits?tenant_id=p2", by="reader")).status_code == 403
    assert (await cloud.ask("GET", "/limits?tenant_id=p1", by="reader")).status_code == 200


async def test_a_claim_takes_as_many_as_fit_and_says_what_is_in_the_way(cloud):
    assert await claim(cloud, most=100, cores=2) == 10
    with pytest.raises(Exhausted) as caught:
        await claim(cloud, cores=20)
    assert str(caught.value) == (
        "Quota exceeded for instances, cores: Requested 1, 20, but already used 10, 20 of 10, 20 "
        "instances, cores"
    )
    assert await cloud.db.read(quotas.usage_of, "p1") == {
        "instances": 10,
        "cores": 20,
        "ram": 5120,
    }


async def test_what_is_released_can_be_claimed_again_and_never_goes_below_zero(cloud):
    assert await claim(cloud, most=10, least=10) == 10
    await cloud.db.run(quotas.release_instances, "p1", count=4, cores=1, ram_mib=512)
    assert await claim(cloud, most=10) == 4
    await cloud.db.run(quotas.release_instances, "p1", count=50, cores=1, ram_mib=512)
    assert await cloud.db.read(quotas.usage_of, "p1") == {"instances": 0, "cores": 0, "ram": 0}


async def test_a_project_without_limits_may_build_a_thousand(cloud):
    body = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
    await cloud.ask("PUT", "/os-quota-sets/p1", json=body)
    assert await claim(cloud, least=1000, most=1000) == 1000


async def test_a_recount_makes_the_usage_what_the_servers_come_to(cloud):
    for _ in range(2):
        await cloud.add_server("a", vcpus=2, ram=1024)
    await cloud.add_server("b", project_id="p2")
    await claim(cloud, "gone")
    assert await cloud.db.run(quotas.recount_usage) == 3
    usage = {name: await cloud.db.read(quotas.usage_of, name) for name in ("p1", "p2", "gone")}
    assert usage["p1"] == {"instances": 2, "cores": 4, "ram": 2048}
    assert usage["p2"] == {"instances": 1, "cores": 1, "ram": 512}
    assert usage["gone"] == {"instances": 0, "cores": 0, "ram": 0}
    assert await cloud.db.run(quotas.recount_usage) == 0
