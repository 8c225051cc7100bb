"""Subnets as their clients meet them."""

from __future__ import annotations

import pytest


async def test_a_subnet_begins_with_a_gateway_and_all_else_in_its_pool(cloud):
    made = await cloud.subnet("10.1.0.0/24", name="sub")
    assert made["gateway_ip"] == "10.1.0.1"
    assert made["allocation_pools"] == [{"start": "10.1.0.2", "end": "10.1.0.254"}]
    assert made["enable_dhcp"] is True
    assert made["dns_nameservers"] == made["host_routes"] == made["tags"] == []
    assert made["ipv6_ra_mode"] is made["ipv6_address_mode"] is made["subnetpool_id"] is None
    assert (await cloud.as_().get(f"/subnets/{made['id']}")).json()["subnet"] == made


async def test_a_gateway_may_stand_anywhere_or_nowhere(cloud):
    middle = await cloud.subnet("10.0.0.0/29", gateway_ip="10.0.0.3")
    assert middle["allocation_pools"] == [
        {"start": "10.0.0.1", "end": "10.0.0.2"},
        {"start": "10.0.0.4", "end": "10.0.0.6"},
    ]
    none = await cloud.subnet("10.0.0.0/29", gateway_ip=None)
    assert none["gateway_ip"] is None
    assert none["allocation_pools"] == [{"start": "10.0.0.1", "end": "10.0.0.6"}]


async def test_an_ipv6_subnet_says_how_guests_come_to_addresses(cloud):
    made = await cloud.subnet("fd00::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
    assert made["gateway_ip"] == "fd00::1"
    assert made["allocation_pools"] == [{"start": "fd00::2", "end": "fd00::ffff:ffff:ffff:ffff"}]
    assert made["ipv6_ra_mode"] == "slaac"


@pytest.mark.parametrize(
    ("fields", "code", "kind"),
    [
        ({"cidr": "10.0.0.1/24"}, 400, "HTTPBadRequest"),
        ({"cidr": "10.0.0.0"}, 400, "HTTPBadRequest"),
        ({"cidr": "cidr"}, 400, "HTTPBadRequest"),
        ({"cidr": "fd00::/64"}, 400, "InvalidInput"),
        ({"cidr": "127.0.0.0/8"}, 400, "InvalidInput"),
        ({"gateway_ip": "10.0.0.255"}, 400, "InvalidInput"),
        ({"gateway_ip": "fd00::1"}, 400, "InvalidInput"),
        ({"gateway_ip": "door"}, 400, "HTTPBadRequest"),
        ({"allocation_pools": [("10.0.0.9", "10.0.0.2")]}, 400, "InvalidAllocationPool"),
        ({"allocation_pools": [("10.0.0.9", "10.0.1.2")]}, 400, "OutOfBoundsAllocationPool"),
        (
            {"allocation_pools": [("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.12")]},
            409,
            "OverlappingAllocationPools",
        ),
        (
            {"allocation_pools": [("10.0.0.1", "10.0.0.9")]},
            409,
            "GatewayConflictWithAllocationPools",
        ),
        ({"dns_nameservers": ["x"]}, 400, "HTTPBadRequest"),
        ({"dns_nameservers": ["1.1.1.1", "1.1.1.1"]}, 400, "HTTPBadRequest"),
        ({"dns_nameservers": ["1.1.1.1"] * 6}, 400, "HTTPBadRequest"),
        ({"ipv6_ra_mode": "slaac"}, 400, "InvalidInput"),
        ({"ipv6_ra_mode": "magic"}, 400, "HTTPBadRequest"),
        ({"ip_version": 5}, 400, "HTTPBadRequest"),
        ({"network_id": "nowhere"}, 404, "NetworkNotFound"),
    ],
)
async def test_addresses_that_make_no_sense_are_refused(cloud, fields, code, kind):
    network = await cloud.make("network")
    if "allocation_pools" in fields:
        pools = [{"start": first, "end": last} for first, last in fields["allocation_pools"]]
        fields = {"allocation_pools": pools}
    body = {"network_id": network["id"], "ip_version": 4, "cidr": "10.0.0.0/24", **fields}
    refused = await cloud.make("subnet", expect=code, **body)
    assert refused["type"] == kind
    assert await cloud.list("subnet") == []


@pytest.mark.parametrize(
    ("cidr", "fields"),
    [
        ("fd00::/64", {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}),
        ("fd00::/64", {"ipv6_ra_mode": "slaac", "enable_dhcp": False}),
        ("fd00::/80", {"ipv6_ra_mode": "slaac"}),
    ],
)
async def test_ipv6_modes_that_contradict_are_refused(cloud, cidr, fields):
    network = await cloud.make("network")
    body = {"network_id": network["id"], "ip_version": 6, "cidr": cidr, **fields}
    assert (await cloud.make("subnet", expect=400, **body))["type"] == "InvalidInput"


async def test_subnets_of_one_network_do_not_overlap_those_of_two_may(cloud):
    first = await cloud.subnet("10.0.0.0/16")
    body = {"network_id": first["network_id"], "ip_version": 4, "cidr": "10.0.9.0/24"}
    assert "overlaps" in (await cloud.make("subnet", expect=400, **body))["message"]
    assert (await cloud.subnet("10.0.9.0/24"))["cidr"] == "10.0.9.0/24"


async def test_a_subnet_is_changed_and_its_pools_with_it(cloud):
    made = await cloud.subnet()
    path = f"/subnets/{made['id']}"
    change = {
        "name": "new",
        "dns_nameservers": ["10.0.0.53"],
        "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}],
        "allocation_pools": [{"start": "10.0.0.100", "end": "10.0.0.101"}],
        "gateway_ip": "10.0.0.254",
        "enable_dhcp": False,
    }
    answer = await cloud.as_().put(path, json={"subnet": change})
    assert answer.status_code == 200, answer.text
    assert {name: answer.json()["subnet"][name] for name in change} == change
    port = await cloud.make("port", network_id=made["network_id"])
    assert port["fixed_ips"][0]["ip_address"] == "10.0.0.100"
    for refused in ({"cidr": "10.0.0.0/8"}, {"gateway_ip": "10.0.0.100"}):
        assert (await cloud.as_().put(path, json={"subnet": refused})).status_code in (400, 409)


async def test_a_subnet_whose_addresses_are_in_use_stays(cloud):
    made = await cloud.subnet()
    port = await cloud.make("port", network_id=made["network_id"])
    refused = await cloud.as_().delete(f"/subnets/{made['id']}")
    assert refused.status_code == 409
    assert refused.json()["NeutronError"]["type"] == "SubnetInUse"
    await cloud.as_().delete(f"/ports/{port['id']}")
    assert (await cloud.as_().delete(f"/subnets/{made['id']}")).status_code == 204


async def test_a_subnet_of_self_made_addresses_comes_and_goes_under_its_ports(cloud):
    network_id = (await cloud.make("network"))["id"]
    port = await cloud.make("port", network_id=network_id, mac_address="fa:16:3e:00:00:01")
    assert port["fixed_ips"] == []
    made = await cloud.subnet("fd00::/64", network_id=network_id, ipv6_address_mode="slaac")
    path = f"/ports/{port['id']}"
    shown = (await cloud.as_().get(path)).json()["port"]["fixed_ips"]
    assert shown == [{"subnet_id": made["id"], "ip_address": "fd00::f816:3eff:fe00:1"}]
    assert (await cloud.as_().delete(f"/subnets/{made['id']}")).status_code == 204
    assert (await cloud.as_().get(path)).json()["port"]["fixed_ips"] == []


async def test_subnets_follow_their_network_in_who_sees_and_makes_them(cloud):
    shared = await cloud.make("network", caller="admin", shared=True)
    body = {"network_id": shared["id"], "ip_version": 4, "cidr": "10.0.0.0/24", "name": "sub"}
    made = await cloud.make("subnet", caller="admin", **body)
    await cloud.subnet("10.7.0.0/24", name="own")
    assert await cloud.list("subnet", caller="member-2") == ["sub"]
    assert await cloud.list("subnet", shared="false") == ["own"]
    assert await cloud.list("subnet", cidr="10.7.0.0/24") == ["own"]
    body["cidr"] = "10.0.1.0/24"
    assert (await cloud.make("subnet", caller="member-2", expect=403, **body))["type"]
    answer = await cloud.as_("member-2").delete(f"/subnets/{made['id']}")
    assert answer.status_code == 403


async def test_subnets_are_made_together(cloud):
    ids = [(await cloud.make("network"))["id"] for _ in range(2)]
    body = [{"network_id": one, "ip_version": 4, "cidr": "10.0.0.0/24"} for one in ids]
    answer = await cloud.as_().post("/subnets", json={"subnets": body})
    assert [one["network_id"] for one in answer.json()["subnets"]] == ids
