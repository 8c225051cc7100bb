"""The cards of hosts: addresses, VLANs, bonds, tunnels; and networks and VIFs on them."""

import pytest


async def introduce(sim_host, device, mac="02:00:00:00:00:01"):
    host = (await sim_host.call("host.get_all"))[0]
    return await sim_host.call("PIF.introduce", host, mac, device)


async def management(sim_host):
    host = (await sim_host.call("host.get_all"))[0]
    return await sim_host.call("host.get_management_interface", host)


async def test_a_card_is_introduced_brought_up_taken_down_and_forgotten(sim_host):
    pif = await introduce(sim_host, "eth1")
    record = await sim_host.call("PIF.get_record", pif)
    assert (record["physical"], record["currently_attached"]) == (True, False)
    assert await sim_host.call("network.get_PIFs", record["network"]) == [pif]
    await sim_host.call("PIF.plug", pif)
    await sim_host.call("PIF.set_disallow_unplug", pif, True)
    assert await sim_host.fault("PIF.unplug", pif) == ["PIF_DOES_NOT_ALLOW_UNPLUG", pif]
    await sim_host.call("PIF.set_disallow_unplug", pif, False)
    await sim_host.call("PIF.unplug", pif)
    host = record["host"]
    fault = await sim_host.fault("PIF.introduce", host, "", "eth1")
    assert fault == ["DUPLICATE_PIF_DEVICE_NAME", "eth1"]
    fault = await sim_host.fault("PIF.introduce", host, "zz", "eth2")
    assert fault == ["MAC_INVALID", "zz"]
    await sim_host.call("PIF.forget", pif)
    assert pif not in await sim_host.call("host.get_PIFs", host)
    assert (await sim_host.fault("PIF_metrics.get_record", record["metrics"]))[0] == (
        "HANDLE_INVALID"
    )
    own = await management(sim_host)
    for name in ("forget", "unplug"):
        assert await sim_host.fault(f"PIF.{name}", own) == ["PIF_IS_MANAGEMENT_INTERFACE", own]


async def test_a_card_gets_an_address_and_the_management(sim_host):
    pif = await introduce(sim_host, "eth1")
    fault = await sim_host.fault("host.management_reconfigure", pif)
    assert fault == ["PIF_HAS_NO_NETWORK_CONFIGURATION", pif]
    static = ("Static", "192.0.2.9", "255.255.255.0", "192.0.2.1", "192.0.2.53,2001:db8::1")
    await sim_host.call("PIF.reconfigure_ip", pif, *static)
    assert (await sim_host.call("PIF.get_record", pif))["IP"] == "192.0.2.9"
    for given, name in (
        (("Static", "no", "255.0.0.0", "", ""), "IP"),
        (("Static", "2001:db8::1", "255.0.0.0", "", ""), "IP"),
        (("Static", "192.0.2.1", "", "", ""), "netmask"),
        (("Static", "192.0.2.1", "255.0.0.0", "", "x"), "DNS"),
    ):
        fault = await sim_host.fault("PIF.reconfigure_ip", pif, *given)
        assert fault == ["INVALID_IP_ADDRESS_SPECIFIED", name]
    assert (await sim_host.fault("PIF.reconfigure_ip", pif, "Sometimes", "", "", "", ""))[0] == (
        "INVALID_VALUE"
    )
    fault = await sim_host.fault("host.management_reconfigure", pif)
    assert fault == ["REQUIRED_PIF_IS_UNPLUGGED", pif]
    await sim_host.call("PIF.plug", pif)
    await sim_host.call("host.management_reconfigure", pif)
    assert await management(sim_host) == pif
    assert (await sim_host.fault("host.management_disable"))[0] == "OPERATION_NOT_ALLOWED"
    v6 = ("Static", "2001:db8::9/64", "2001:db8::1", "")
    await sim_host.call("PIF.reconfigure_ipv6", pif, *v6)
    assert await sim_host.call("PIF.get_IPv6", pif) == ["2001:db8::9/64"]
    await sim_host.call("PIF.set_property", pif, "gro", "on")
    assert (await sim_host.fault("PIF.set_property", pif, "speed", "on"))[0] == "INVALID_VALUE"


async def test_vlans_are_made_on_all_hosts_or_none(sim_fleet):
    await sim_fleet.start("a", "b")
    await sim_fleet.join("b", "a")
    call, fault = sim_fleet.call, sim_fleet.fault
    network = await call("a", "network.create", {"name_label": "vlan 7"})
    made = await call("a", "pool.create_VLAN", "eth0", network, 7)
    assert len(made) == 2
    assert await call("a", "PIF.get_VLAN", made[0]) == 7
    vlans = await call("a", "VLAN.get_all_records")
    assert {record["untagged_PIF"] for record in vlans.values()} == set(made)
    second = await call("a", "network.create", {"name_label": "again"})
    assert (await fault("a", "pool.create_VLAN", "eth0", second, 7))[0] == "PIF_VLAN_EXISTS"
    assert (await fault("a", "pool.create_VLAN", "eth9", second, 7))[0] == "PIF_DEVICE_NOT_FOUND"
    assert await fault("a", "pool.create_VLAN", "eth0", second, 5000) == [
        "VLAN_TAG_INVALID",
        "5000",
    ]
    (tagged,) = {record["tagged_PIF"] for record in vlans.values()} & set(
        await call("a", "host.get_PIFs", sim_fleet.host("b").ref)
    )
    assert await fault("a", "PIF.unplug", tagged) == ["PIF_IS_MANAGEMENT_INTERFACE", tagged]
    lone = await call("a", "VLAN.create", tagged, 8, second)
    others = await call("a", "network.create", {"name_label": "others"})
    fault_8 = await fault("a", "pool.create_VLAN_from_PIF", tagged, others, 8)
    assert fault_8[0] == "PIF_VLAN_EXISTS"
    assert await call("a", "network.get_PIFs", others) == []
    await call("a", "VLAN.destroy", lone)
    assert len(await call("a", "pool.create_VLAN_from_PIF", tagged, others, 8)) == 2
    for vlan in await call("a", "VLAN.get_all"):
        await call("a", "VLAN.destroy", vlan)
    assert len(await call("a", "PIF.get_all")) == 2
    await call("a", "network.destroy", network)


async def test_a_bond_takes_over_its_first_card_s_addresses_and_gives_them_back(sim_host):
    first, second = await management(sim_host), await introduce(sim_host, "eth1")
    network = await sim_host.call("network.create", {"name_label": "bond"})
    fault = await sim_host.fault("Bond.create", network, [first], "", "lacp", {})
    assert fault == ["PIF_BOND_NEEDS_MORE_MEMBERS"]
    bond = await sim_host.call("Bond.create", network, [second, first], "", "lacp", {})
    master = await sim_host.call("Bond.get_master", bond)
    assert await management(sim_host) == master
    assert await sim_host.call("PIF.get_IP", master) == "127.0.0.1"
    assert await sim_host.fault("PIF.plug", second) == ["CANNOT_PLUG_BOND_SLAVE", second]
    fault = await sim_host.fault("Bond.create", network, [first, second], "", "lacp", {})
    assert fault[0] == "PIF_ALREADY_BONDED"
    await sim_host.call("Bond.set_mode", bond, "active-backup")
    await sim_host.call("Bond.set_property", bond, "hashing_algorithm", "src_mac")
    assert (await sim_host.fault("Bond.set_mode", bond, "x"))[0] == "INVALID_VALUE"
    await sim_host.call("Bond.destroy", bond)
    assert await management(sim_host) == first
    assert await sim_host.call("PIF.get_IP", first) == "127.0.0.1"
    assert await sim_host.call("PIF.get_bond_slave_of", second) == "OpaqueRef:NULL"


async def test_a_tunnel_carries_a_network(sim_host):
    pif = await management(sim_host)
    network = await sim_host.call("network.create", {"name_label": "tunnel"})
    tunnel = await sim_host.call("tunnel.create", pif, network, "vxlan")
    access = await sim_host.call("tunnel.get_access_PIF", tunnel)
    assert await sim_host.call("network.get_PIFs", network) == [access]
    assert await sim_host.call("PIF.get_tunnel_transport_PIF_of", pif) == [tunnel]
    assert await sim_host.fault("tunnel.create", access, network, "gre") == [
        "IS_TUNNEL_ACCESS_PIF",
        access,
    ]
    await sim_host.call("tunnel.destroy", tunnel)
    assert await sim_host.call("PIF.get_all") == [pif]


async def test_what_a_network_is_for_and_lets_pass(sim_host):
    (network,) = await sim_host.call("network.get_all")
    await sim_host.call("network.add_purpose", network, "nbd")
    again = await sim_host.fault("network.add_purpose", network, "nbd")
    assert again == ["NETWORK_ALREADY_HAS_PURPOSE", network, "nbd"]
    other = await sim_host.call("network.create", {"name_label": "o"})
    clash = await sim_host.fault("network.add_purpose", other, "insecure_nbd")
    assert clash == ["NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd"]
    await sim_host.call("network.remove_purpose", network, "nbd")
    vm = await sim_host.make_vm()
    vif = await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    await sim_host.call("VM.start", vm, False, False)
    used = await sim_host.fault("network.set_default_locking_mode", network, "disabled")
    assert used == ["VIF_IN_USE", network, vif]
    await sim_host.call("VIF.set_locking_mode", vif, "unlocked")
    await sim_host.call("network.set_default_locking_mode", network, "disabled")
    await sim_host.call("VIF.move", vif, other)
    assert await sim_host.call("network.get_VIFs", other) == [vif]
    assert await sim_host.call("network.get_VIFs", network) == []


async def test_a_locked_vif_sends_from_addresses_that_are_some(sim_host):
    (network,) = await sim_host.call("network.get_all")
    vm = await sim_host.make_vm()
    vif = await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    await sim_host.call("VIF.add_ipv4_allowed", vif, "192.0.2.7")
    await sim_host.call("VIF.set_ipv6_allowed", vif, ["2001:db8::7", "2001:db8::7"])
    assert await sim_host.call("VIF.get_ipv6_allowed", vif) == ["2001:db8::7"]
    for name, value in (("add_ipv4_allowed", "2001:db8::7"), ("add_ipv6_allowed", "x")):
        fault = await sim_host.fault(f"VIF.{name}", vif, value)
        assert fault[0] == "INVALID_IP_ADDRESS_SPECIFIED"
    await sim_host.call("VIF.remove_ipv4_allowed", vif, "192.0.2.7")
    await sim_host.call("VIF.configure_ipv4", vif, "Static", "192.0.2.7/24", "192.0.2.1")
    assert await sim_host.call("VIF.get_ipv4_addresses", vif) == ["192.0.2.7/24"]
    for address in ("192.0.2.7", "x/24", "2001:db8::1/64"):
        fault = await sim_host.fault("VIF.configure_ipv4", vif, "Static", address)
        assert fault == ["INVALID_CIDR_ADDRESS_SPECIFIED", "address"]


@pytest.mark.parametrize("name", ["attach_for_vm", "detach_for_vm"])
async def test_networks_of_a_vm_that_is_not_there(sim_host, name):
    host = (await sim_host.call("host.get_all"))[0]
    fault = await sim_host.fault(f"network.{name}", host, "OpaqueRef:no")
    assert fault == ["HANDLE_INVALID", "VM", "OpaqueRef:no"]
