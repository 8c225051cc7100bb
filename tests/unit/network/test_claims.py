"""Ports for servers: claimed, bound, listed, released."""

import pytest

from xenith.core.errors import Conflict, Exhausted, Forbidden, Invalid
from xenith.network.records.allocations import IP_ALLOCATIONS
from xenith.network.records.ports import PORTS
from xenith.network.records.quotas import QUOTAS, recount_usage, set_limits


async def port_of(rows, port_id):
    return await rows.db.read(lambda tx: tx.find(PORTS, id=port_id))


async def count_of(rows, table):
    return len(await rows.db.read(lambda tx: tx.list(table)))


async def test_a_server_gets_a_port_with_all_that_its_guest_must_know(rows, nic):
    network = await rows.network(name="net", mtu=1400)
    subnet = await rows.subnet(
        network.id,
        "10.0.0.0/24",
        dns_nameservers=["10.0.0.53"],
        host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}],
    )
    (claimed,) = await rows.claim("i1", nic(network.id, tag="lan"))
    assert claimed.network_name == "net"
    assert claimed.mtu == 1400
    assert claimed.is_ours
    assert claimed.tag == "lan"
    (address,) = claimed.addresses
    assert address.subnet_id == subnet.id
    assert (address.address, address.version, address.prefix_length) == ("10.0.0.2", 4, 24)
    assert address.gateway == "10.0.0.1"
    assert address.dns == ("10.0.0.53",)
    assert address.routes == (("10.9.0.0/16", "10.0.0.9"),)
    port = await port_of(rows, claimed.id)
    assert (port.device_id, port.device_owner) == ("i1", "compute:nova")
    assert (port.status, port.mac_address, port.project_id) == ("DOWN", claimed.mac, "p1")


async def test_ports_listed_are_ports_claimed_in_the_order_of_the_requests(rows, nic):
    network = await rows.network()
    await rows.subnet(network.id, "10.0.0.0/24")
    given = await rows.port(network.id)
    claimed = await rows.claim(
        "i1", nic(network.id), nic(port_id=given.id), nic(network.id, address="10.0.0.77")
    )
    other = await rows.claim("i2", nic(network.id))
    listed = await rows.do(rows.networks.list_ports, instance_ids=["i1", "i2", "i3"])
    assert listed == {"i1": claimed, "i2": other, "i3": []}
    assert [port.is_ours for port in claimed] == [True, False, True]
    assert claimed[2].addresses[0].address == "10.0.0.77"


async def test_bound_ports_are_up_and_binding_again_changes_nothing(rows, nic):
    network = await rows.network()
    await rows.subnet(network.id, "10.0.0.0/24")
    (claimed,) = await rows.claim("i1", nic(network.id))
    await rows.do(rows.networks.bind_ports, instance_id="i1", host="h1")
    bound = await port_of(rows, claimed.id)
    assert (bound.host_id, bound.status) == ("h1", "ACTIVE")
    await rows.do(rows.networks.bind_ports, instance_id="i1", host="h1")
    assert await port_of(rows, claimed.id) == bound


async def test_release_deletes_what_was_made_and_gives_back_what_was_lent(rows, nic):
    network = await rows.network()
    await rows.subnet(network.id, "10.0.0.0/24")
    lent = await rows.port(network.id)
    ours, _ = await rows.claim("i1", nic(network.id), nic(port_id=lent.id))
    await rows.do(rows.networks.bind_ports, instance_id="i1", host="h1")
    for _ in range(2):
        await rows.do(rows.networks.release_ports, instance_id="i1")
        assert await port_of(rows, ours.id) is None
        kept = await port_of(rows, lent.id)
        assert (kept.device_id, kept.device_owner, kept.host_id, kept.status) == ("",) * 3 + (
            "DOWN",
        )
        assert await count_of(rows, IP_ALLOCATIONS) == 1
        assert await rows.do(recount_usage) == 0


async def test_auto_takes_the_only_network_or_the_own_one(rows, admin):
    assert await rows.claim("i0") == []
    shared = await rows.network(admin, shared=True)
    await rows.subnet(shared.id, "10.0.0.0/24")
    assert (await rows.claim("i1"))[0].network_id == shared.id
    own = await rows.network()
    await rows.subnet(own.id, "10.1.0.0/24")
    assert (await rows.claim("i2"))[0].network_id == own.id
    await rows.network()
    with pytest.raises(Conflict) as refused:
        await rows.claim("i3")
    assert refused.value.kind == "NetworkAmbiguous"


async def test_auto_never_takes_the_way_out(rows, admin, stranger):
    out = await rows.network(admin, shared=True, **{"router:external": True})
    await rows.subnet(out.id, "10.0.0.0/24")
    assert await rows.claim("i1", who=stranger) == []


async def test_what_a_caller_may_not_use_is_refused_in_computes_words(rows, nic, admin, stranger):
    network = await rows.network()
    port = await rows.port(network.id)
    outside = await rows.network(admin, **{"router:external": True})
    with pytest.raises(Invalid, match=f"Network {network.id} could not be found"):
        await rows.claim("i1", nic(network.id), who=stranger)
    with pytest.raises(Invalid, match=f"Port id {port.id} could not be found"):
        await rows.claim("i1", nic(port_id=port.id), who=stranger)
    with pytest.raises(Invalid, match="requires a subnet"):
        await rows.claim("i1", nic(network.id))
    with pytest.raises(Forbidden):
        await rows.claim("i1", nic(outside.id))
    await rows.subnet(network.id, "10.0.0.0/24")
    with pytest.raises(Invalid, match="requires a FixedIP"):
        await rows.claim("i1", nic(port_id=port.id))
    await rows.claim("i1", nic(network.id, address="10.0.0.9"))
    with pytest.raises(Invalid, match="already in use"):
        await rows.claim("i2", nic(network.id, address="10.0.0.9"))


async def test_a_port_serves_one_server(rows, nic):
    network = await rows.network()
    port = await rows.port(network.id)
    await rows.claim("i1", nic(port_id=port.id))
    with pytest.raises(Conflict) as refused:
        await rows.claim("i2", nic(port_id=port.id))
    assert refused.value.kind == "PortInUse"


async def test_a_claim_above_the_quota_or_the_addresses_makes_nothing(rows, nic):
    network = await rows.network()
    await rows.subnet(network.id, "10.0.0.0/30")
    with pytest.raises(Conflict) as refused:
        await rows.claim("i1", nic(network.id), nic(network.id))
    assert refused.value.kind == "IpAddressGenerationFailure"
    await rows.do(set_limits, "p1", {"port": 1})
    with pytest.raises(Exhausted):
        await rows.claim("i1", nic(network.id), nic(network.id))
    assert await count_of(rows, PORTS) == await count_of(rows, IP_ALLOCATIONS) == 0
    assert await rows.do(recount_usage) == 0
    assert len(await rows.claim("i1", nic(network.id))) == 1


async def test_a_count_that_is_off_is_put_right(rows):
    await rows.network()
    await rows.do(lambda tx: tx.update(QUOTAS, {"project_id": "p1"}, used_count=7))
    await rows.do(
        lambda tx: tx.insert(
            QUOTAS,
            {"project_id": "p9", "resource": "port", "limit_count": None, "used_count": 1},
        )
    )
    assert await rows.do(recount_usage) == 2
    assert await rows.do(recount_usage) == 0


async def test_the_first_network_is_made_once_and_serves_every_project(rows, stranger):
    for _ in range(2):
        await rows.networks.ensure_demo_network()
    (port,) = await rows.claim("i1", who=stranger)
    assert port.network_name == "shared"
    assert port.addresses[0].address == "192.168.0.2"
    assert await rows.do(recount_usage) == 0
