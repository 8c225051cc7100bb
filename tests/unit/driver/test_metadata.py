"""What a guest is told is what the server was given, in the documents' own words."""

import base64
import json

import msgspec

from xenith.driver.config_drive import build_config_drive, drive_files
from xenith.driver.metadata import (
    Guest,
    GuestAddress,
    GuestFlavor,
    GuestKey,
    GuestPort,
    meta_data,
    network_data,
    xenstore_data,
)

PORT = GuestPort(
    id="0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
    network_id="net-1",
    network_name="private",
    mac="fa:16:3e:00:00:01",
    mtu=1450,
    addresses=(
        GuestAddress(
            address="10.0.0.5",
            version=4,
            prefix_length=26,
            gateway="10.0.0.1",
            dns=("192.0.2.1", "192.0.2.2"),
            routes=(("10.1.0.0/16", "10.0.0.2"),),
        ),
        GuestAddress(address="fd00::5", version=6, prefix_length=64, gateway="fd00::1"),
    ),
)
GUEST = Guest(
    id="6b3c4a5e-0000-4000-8000-000000000001",
    name="My Server",
    hostname="my-server",
    project_id="p1",
    ports=(PORT,),
    key=GuestKey(name="k", public_key="ssh-ed25519 AAAA"),
    metadata={"role": "web"},
    admin_pass="s3cret",
    user_data=base64.b64encode(b"#!/bin/sh\necho hi\n").decode(),
    files=(("/etc/motd", base64.b64encode(b"welcome").decode()),),
)


def test_metadata_names_the_server_its_key_and_its_files():
    document = meta_data(GUEST)
    assert document["uuid"] == GUEST.id
    assert document["hostname"] == "my-server"
    assert document["public_keys"] == {"k": "ssh-ed25519 AAAA"}
    assert document["meta"] == {"role": "web"}
    assert document["admin_pass"] == "s3cret"
    assert document["files"] == [{"content_path": "/content/0000", "path": "/etc/motd"}]
    assert len(base64.b64decode(document["random_seed"])) == 512


def test_the_seed_is_the_same_when_a_build_is_done_twice_and_differs_between_servers():
    other = Guest(id="other", name="x", hostname="x", project_id="p1", admin_pass="s3cret")
    assert meta_data(GUEST)["random_seed"] == meta_data(GUEST)["random_seed"]
    assert meta_data(GUEST)["random_seed"] != meta_data(other)["random_seed"]


def test_a_server_without_key_or_password_is_told_of_none():
    document = meta_data(Guest(id="i", name="n", hostname="h", project_id="p"))
    assert not {"public_keys", "keys", "admin_pass", "files"} & document.keys()


def test_network_data_carries_addresses_routes_and_name_servers():
    document = network_data([PORT])
    (link,) = document["links"]
    assert link["ethernet_mac_address"] == PORT.mac
    assert link["mtu"] == 1450
    ipv4, ipv6 = document["networks"]
    assert ipv4["link"] == ipv6["link"] == link["id"]
    assert (ipv4["type"], ipv4["ip_address"], ipv4["netmask"]) == (
        "ipv4",
        "10.0.0.5",
        "255.255.255.192",
    )
    assert ipv4["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"},
        {"network": "10.1.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.2"},
    ]
    assert ipv6["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00::1"}]
    assert [service["address"] for service in document["services"]] == ["192.0.2.1", "192.0.2.2"]


def test_the_agent_finds_its_interface_under_the_upper_case_address():
    data = xenstore_data(GUEST)
    assert data["vm-data/hostname"] == "my-server"
    interface = json.loads(data["vm-data/networking/FA163E000001"])
    assert interface["ips"][0]["netmask"] == "255.255.255.192"
    assert interface["broadcast"] == "10.0.0.63"
    assert interface["ip6s"][0]["netmask"] == 64
    assert interface["routes"] == [
        {"route": "10.1.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.2"}
    ]
    assert interface["dns"] == ["192.0.2.1", "192.0.2.2"]


def test_only_the_first_interface_has_a_default_route_for_the_agent():
    second = GuestPort(
        id="p2", network_id="n", mac="fa:16:3e:00:00:02", mtu=1500, addresses=PORT.addresses
    )
    guest = Guest(id="i", name="n", hostname="h", project_id="p", ports=(PORT, second))
    data = xenstore_data(guest)
    assert json.loads(data["vm-data/networking/FA163E000001"])["gateway"] == "10.0.0.1"
    assert json.loads(data["vm-data/networking/FA163E000002"])["gateway"] is None


def test_a_guest_is_told_where_its_further_disks_are():
    flavor = GuestFlavor(swap=64, ephemeral=2001)
    files = drive_files(msgspec.structs.replace(GUEST, flavor=flavor))
    for version in ("2009-04-04", "latest"):
        told = json.loads(files[f"ec2/{version}/meta-data.json"])
        assert told["block-device-mapping"] == {
            "ami": "xvda",
            "root": "/dev/xvda",
            "swap": "/dev/xvdc",
            "ephemeral0": "/dev/xvde",
            "ephemeral1": "/dev/xvdf",
        }
        assert told["local-hostname"] == GUEST.hostname


def test_the_drive_holds_each_document_under_its_date_and_as_latest():
    files = drive_files(GUEST)
    for name in ("meta_data.json", "network_data.json", "vendor_data.json", "user_data"):
        assert files[f"openstack/latest/{name}"] == files[f"openstack/2018-08-27/{name}"]
    assert files["openstack/latest/user_data"] == b"#!/bin/sh\necho hi\n"
    assert files["openstack/content/0000"] == b"welcome"


def test_a_drive_is_built_from_a_request_by_the_names_of_its_fields():
    request = {
        "name": "n",
        "hostname": "h",
        "project_id": "p",
        "key": {"name": "k", "type": "ssh", "public_key": "ssh-rsa A"},
        "files": [["/x", "aGk="]],
        "ports": [
            {
                "id": "p1",
                "network_id": "n1",
                "mac": "fa:16:3e:00:00:01",
                "mtu": 1500,
                "addresses": [
                    {"subnet_id": "s", "address": "10.0.0.5", "version": 4, "prefix_length": 24}
                ],
            }
        ],
        "flavor": {"ram": 64},
    }
    drive = build_config_drive("i", request, admin_pass="pw")
    assert b'"ip_address":"10.0.0.5"' in drive
    assert b'"admin_pass":"pw"' in drive
