"""Ports as their clients meet them."""

from __future__ import annotations

import pytest


def addresses(port):
    return [ip["ip_address"] for ip in port["fixed_ips"]]


async def test_a_port_gets_a_mac_address_and_the_next_free_address(cloud):
    subnet = await cloud.subnet()
    first = await cloud.make("port", network_id=subnet["network_id"], name="p")
    assert first["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "10.0.0.2"}]
    assert first["mac_address"].startswith("fa:16:3e:")
    assert first["status"] == "DOWN"
    assert first["device_id"] == first["device_owner"] == ""
    assert first["security_groups"] == first["allowed_address_pairs"] == []
    assert first["binding:vnic_type"] == "normal"
    assert "binding:host_id" not in first
    second = await cloud.make("port", network_id=subnet["network_id"])
    assert addresses(second) == ["10.0.0.3"]


async def test_a_port_gets_one_address_of_each_version_and_those_its_guest_makes(cloud):
    network_id = (await cloud.make("network"))["id"]
    await cloud.subnet("10.0.0.0/24", network_id=network_id)
    await cloud.subnet("10.0.1.0/24", network_id=network_id)
    await cloud.subnet("fd00::/64", network_id=network_id)
    await cloud.subnet("fd01::/64", network_id=network_id, ipv6_address_mode="slaac")
    port = await cloud.make("port", network_id=network_id, mac_address="fa:16:3e:00:00:01")
    found = addresses(port)
    assert len(found) == 3
    assert found[1:] == ["fd00::2", "fd01::f816:3eff:fe00:1"]


async def test_addresses_asked_for_by_name_are_given_once(cloud):
    subnet = await cloud.subnet()
    network_id = subnet["network_id"]
    asked = [{"ip_address": "10.0.0.2"}, {"subnet_id": subnet["id"]}]
    made = await cloud.make("port", network_id=network_id, fixed_ips=asked)
    assert addresses(made) == ["10.0.0.2", "10.0.0.3"]
    refused = await cloud.make("port", expect=409, network_id=network_id, fixed_ips=asked)
    assert refused["type"] == "IpAddressAlreadyAllocated"
    assert addresses(await cloud.make("port", network_id=network_id)) == ["10.0.0.4"]
    assert (await cloud.make("port", network_id=network_id, fixed_ips=[]))["fixed_ips"] == []


@pytest.mark.parametrize(
    ("fixed_ips", "kind"),
    [
        ([{"ip_address": "10.9.0.1"}], "InvalidIpForNetwork"),
        ([{"subnet_id": "SUBNET", "ip_address": "10.9.0.1"}], "InvalidIpForSubnet"),
        ([{"subnet_id": "SUBNET", "ip_address": "10.0.0.255"}], "InvalidIpForSubnet"),
        ([{"subnet_id": "elsewhere"}], "InvalidInput"),
        ([{}], "InvalidInput"),
        ([{"ip_address": f"10.0.0.{n}"} for n in range(10, 16)], "InvalidInput"),
        ([{"ip_address": "word"}], "HTTPBadRequest"),
        ("10.0.0.9", "HTTPBadRequest"),
    ],
)
async def test_addresses_that_do_not_fit_are_refused(cloud, fixed_ips, kind):
    subnet = await cloud.subnet()
    for ip in fixed_ips if isinstance(fixed_ips, list) else ():
        if ip.get("subnet_id") == "SUBNET":
            ip["subnet_id"] = subnet["id"]
    body = {"network_id": subnet["network_id"], "fixed_ips": fixed_ips}
    assert (await cloud.make("port", expect=400, **body))["type"] == kind


async def test_an_exhausted_subnet_says_so_and_a_deleted_port_frees_its_address(cloud):
    subnet = await cloud.subnet("10.0.0.0/30")
    network_id = subnet["network_id"]
    only = await cloud.make("port", network_id=network_id)
    refused = await cloud.make("port", expect=409, network_id=network_id)
    assert refused["type"] == "IpAddressGenerationFailure"
    await cloud.as_().delete(f"/ports/{only['id']}")
    again = await cloud.make("port", network_id=network_id)
    assert addresses(again) == addresses(only) == ["10.0.0.2"]


async def test_a_mac_address_is_one_ports_of_a_network(cloud):
    network_id = (await cloud.make("network"))["id"]
    body = {"network_id": network_id, "mac_address": "FA:16:3E:00:00:01"}
    assert (await cloud.make("port", **body))["mac_address"] == "fa:16:3e:00:00:01"
    assert (await cloud.make("port", expect=409, **body))["type"] == "MacAddressInUse"
    body["mac_address"] = "no"
    await cloud.make("port", expect=400, **body)


async def test_a_port_is_changed(cloud):
    subnet = await cloud.subnet()
    made = await cloud.make("port", network_id=subnet["network_id"])
    path = f"/ports/{made['id']}"
    change = {
        "name": "new",
        "admin_state_up": False,
        "device_id": "d",
        "device_owner": "compute:x",
        "extra_dhcp_opts": [{"opt_name": "tftp-server", "opt_value": "1.1.1.1", "ip_version": 4}],
        "allowed_address_pairs": [{"ip_address": "10.3.3.0/24"}],
        "fixed_ips": [*made["fixed_ips"], {"ip_address": "10.0.0.77"}],
    }
    answer = await cloud.as_().put(path, json={"port": change})
    assert answer.status_code == 200, answer.text
    port = answer.json()["port"]
    assert addresses(port) == ["10.0.0.2", "10.0.0.77"]
    assert port["allowed_address_pairs"] == [
        {"ip_address": "10.3.3.0/24", "mac_address": made["mac_address"]}
    ]
    assert port["extra_dhcp_opts"] == change["extra_dhcp_opts"]
    assert port["revision_number"] == 2
    body = {"port": {"fixed_ips": [{"subnet_id": subnet["id"], "ip_address": "10.0.0.9"}]}}
    assert addresses((await cloud.as_().put(path, json=body)).json()["port"]) == ["10.0.0.9"]
    for refused in ({"network_id": "x"}, {"security_groups": ["x"]}, {"nonsense": 1}):
        answer = await cloud.as_().put(path, json={"port": refused})
        assert answer.status_code in (400, 404)


async def test_only_admins_and_services_say_and_see_where_a_port_is(cloud):
    subnet = await cloud.subnet()
    body = {"network_id": subnet["network_id"], "binding__host_id": "h1"}
    assert (await cloud.make("port", expect=403, **body))["type"] == "PolicyNotAuthorized"
    made = await cloud.make("port", caller="admin", **body)
    assert made["binding:host_id"] == "h1"
    assert made["binding:vif_type"] == "bridge"
    hosts = {"binding:host_id": "h1"}
    assert len(await cloud.list("port", caller="admin", **hosts)) == 1
    shown = await cloud.as_().get(f"/ports/{made['id']}")
    assert "binding:host_id" not in shown.json()["port"]
    # A filter must not tell what the port itself does not.
    assert await cloud.list("port", **hosts) == await cloud.list("port", **{"binding:host_id": "x"})


async def test_ports_are_found_by_address_device_network_and_mac(cloud):
    subnet = await cloud.subnet()
    network_id = subnet["network_id"]
    one = await cloud.make("port", network_id=network_id, name="one", device_id="d1")
    await cloud.make("port", network_id=network_id, name="two", fixed_ips=[])
    for query in (
        {"fixed_ips": "ip_address=10.0.0.2"},
        {"fixed_ips": ["ip_address=10.0.0.2", f"subnet_id={subnet['id']}"]},
        {"fixed_ips": "ip_address_substr=0.0.2"},
        {"fixed_ips": f"subnet_id={subnet['id']}"},
        {"device_id": "d1"},
        {"mac_address": one["mac_address"]},
        {"network_id": network_id, "name": "one"},
        {"id": one["id"]},
    ):
        assert await cloud.list("port", **query) == ["one"], query
    assert await cloud.list("port", fixed_ips="ip_address=10.0.0.99") == []
    assert (await cloud.as_().get("/ports", params={"fixed_ips": "x"})).status_code == 400


async def test_a_guest_on_a_shared_network_has_ports_but_not_any_address(cloud):
    shared = await cloud.make("network", caller="admin", shared=True, project_id="p2")
    body = {"network_id": shared["id"], "ip_version": 4, "cidr": "10.0.0.0/24"}
    await cloud.make("subnet", caller="admin", **body)
    made = await cloud.make("port", network_id=shared["id"], name="guest")
    for fields in (
        {"fixed_ips": [{"ip_address": "10.0.0.9"}]},
        {"mac_address": "fa:16:3e:00:00:01"},
        {"device_owner": "network:dhcp"},
        {"port_security_enabled": False},
    ):
        await cloud.make("port", expect=403, network_id=shared["id"], **fields)
    assert await cloud.list("port", caller="member-2") == ["guest"], "it is on their network"
    assert (await cloud.as_("member-2").delete(f"/ports/{made['id']}")).status_code == 204
    private = await cloud.make("network")
    await cloud.make("port", caller="member-2", expect=404, network_id=private["id"])


async def test_ports_are_made_together_or_not_at_all(cloud):
    subnet = await cloud.subnet("10.0.0.0/30")
    body = {"ports": [{"network_id": subnet["network_id"]}] * 2}
    assert (await cloud.as_().post("/ports", json=body)).status_code == 409
    assert await cloud.list("port") == []


async def test_address_pairs_need_port_security_and_are_each_given_once(cloud):
    network_id = (await cloud.make("network"))["id"]
    pair = {"ip_address": "10.0.0.9"}
    body = {"network_id": network_id, "allowed_address_pairs": [pair]}
    refused = await cloud.make("port", expect=409, port_security_enabled=False, **body)
    assert refused["type"] == "AddressPairAndPortSecurityRequired"
    body["allowed_address_pairs"] = [pair, pair]
    assert (await cloud.make("port", expect=400, **body))["type"] == "DuplicateAddressPairInRequest"
