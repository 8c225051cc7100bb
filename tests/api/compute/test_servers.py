"""Servers accepted, shown, changed and refused; no cell is there to build them."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from xenith.blob import FileStore
from xenith.compute.endpoints.service import service
from xenith.compute.operations import Compute
from xenith.compute.operations.context import Context, Seal
from xenith.compute.records.quotas import usage_of
from xenith.compute.states import TRANSITIONS
from xenith.image.operations import Images, NewImage
from xenith.image.records import images
from xenith.network.attributes import NETWORK, PORT, SUBNET
from xenith.network.operations import Networks
from xenith.network.operations.networks import create_network
from xenith.network.operations.ports import create_port
from xenith.network.operations.subnets import create_subnet

NOWHERE = "00000000-0000-4000-8000-00000000dead"


class Acceptance:
    """Compute with real images and networks, and no cell behind it."""

    def __init__(self, cloud, callers, directory):
        self.cloud = cloud
        self.networks = Networks(cloud.db, cloud.world)
        self.images = Images(cloud.db, cloud.world, FileStore(directory))
        self.member = callers.principals["member"]
        self.console = "line 1\nline \x1b2\nline 3\n"
        context = Context(
            db=cloud.db,
            world=cloud.world,
            node=cloud.node,
            images=self.images,
            networks=self.networks,
            projects=cloud.context.projects,
            seal=Seal(close=lambda data: data, open=lambda data: data),
            is_host_up=lambda _host_id: True,
        )
        self.compute = Compute(context)
        cloud.hosts.console = lambda: self.console
        self.ask, self.get = cloud.ask, cloud.get

    async def fill(self):
        await self.compute.flavors.ensure_defaults()
        self.image_id = await self.add_image()
        run = self.cloud.db.run
        self.network = await run(create_network, self.member, NETWORK.read_new({"name": "net"}))
        subnet = {"network_id": self.network.id, "cidr": "10.0.0.0/24", "ip_version": 4}
        await run(create_subnet, self.member, SUBNET.read_new(subnet))
        flavors = (await self.get("/flavors", by="member"))["flavors"]
        self.flavor_id = flavors[0]["id"]

    async def add_image(self, **values):
        row = await self.images.create(
            self.member, NewImage(name="i", disk_format="raw", container_format="bare")
        )
        values = {"status": "active", "size": 512, "virtual_size": 512} | values
        await self.cloud.db.run(lambda tx: tx.update(images, {"id": row.id}, **values))
        return row.id

    async def create(self, *, by="member", at="2.96", beside=None, **fields):
        server = {
            "name": "one",
            "imageRef": self.image_id,
            "flavorRef": self.flavor_id,
            "networks": "none",
            **fields,
        }
        if float(at.partition(".")[2]) < 37 and server["networks"] == "none":
            del server["networks"]
        body = {"server": {k: v for k, v in server.items() if v is not ...}, **(beside or {})}
        return await self.ask("POST", "/servers", by=by, at=at, json=body)

    async def made(self, **fields):
        answer = await self.create(**fields)
        assert answer.status_code == 202, answer.text
        server_id = answer.json()["server"]["id"]
        at = fields.get("at", "2.96")
        return (await self.get(f"/servers/{server_id}", by=fields.get("by", "member"), at=at))[
            "server"
        ]

    async def used(self):
        return await self.cloud.db.read(usage_of, "p1")


@pytest.fixture
async def house(cloud, callers, site_of, tmp_path):
    made = Acceptance(cloud, callers, tmp_path)
    cloud.site = site_of([service(made.compute)])
    await made.fill()
    return made


async def test_a_create_is_answered_with_its_id_and_a_password(house):
    answer = await house.create(at="2.1")
    assert answer.status_code == 202
    server = answer.json()["server"]
    assert set(server) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
    assert len(server["adminPass"]) >= 12
    assert answer.headers["location"].endswith(f"/servers/{server['id']}")


async def test_a_server_is_a_build_until_a_cell_has_it(house):
    server = await house.made(
        networks="auto", metadata={"a": "b"}, tags=["y", "x"], description="d"
    )
    assert server["status"] == "BUILD"
    assert server["OS-EXT-STS:task_state"] == "scheduling"
    assert (server["metadata"], server["tags"]) == ({"a": "b"}, ["x", "y"])
    assert server["description"] == "d"
    assert [one["addr"][:5] for one in server["addresses"]["net"]] == ["10.0."]


async def test_networks_are_chosen_by_network_by_address_and_by_port(house):
    assert (await house.made(networks="none"))["addresses"] == {}
    by_network = [{"uuid": house.network.id, "fixed_ip": "10.0.0.77"}]
    assert (await house.made(networks=by_network))["addresses"]["net"][0]["addr"] == "10.0.0.77"
    port = await house.cloud.db.run(
        create_port, house.member, PORT.read_new({"network_id": house.network.id})
    )
    server = await house.made(networks=[{"port": port.id}])
    assert len(server["addresses"]["net"]) == 1
    again = await house.create(networks=[{"port": port.id}])
    assert again.status_code == 409
    taken = await house.create(networks=by_network)
    assert taken.status_code in (400, 409)


FILE = {"path": "/etc/motd", "contents": base64.b64encode(b"hello").decode()}


@pytest.mark.parametrize(
    ("at", "fields"),
    [
        ("2.1", {"name": "  padded  "}),
        ("2.1", {"personality": [FILE]}),
        ("2.56", {"personality": [FILE], "networks": "none"}),
        ("2.1", {"user_data": base64.b64encode(b"#!/bin/sh").decode(), "config_drive": True}),
        ("2.1", {"accessIPv4": "192.0.2.1", "accessIPv6": "2001:db8::1"}),
        ("2.52", {"tags": ["a"]}),
        ("2.90", {"hostname": "chosen-name"}),
        ("2.94", {"hostname": "chosen.example.org"}),
        ("2.1", {"adminPass": "given", "OS-DCF:diskConfig": "AUTO"}),
        ("2.1", {"min_count": "1", "max_count": 2}),
        ("2.1", {"security_groups": [{"name": "default"}]}),
    ],
)
async def test_what_may_be_asked_for_is_accepted(house, at, fields):
    answer = await house.create(at=at, **fields)
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("at", "fields", "code"),
    [
        ("2.96", {"name": ""}, 400),
        ("2.96", {"name": "   "}, 400),
        ("2.96", {"name": "x" * 256}, 400),
        ("2.96", {"name": ...}, 400),
        ("2.96", {"name": 5}, 400),
        ("2.96", {"imageRef": NOWHERE}, 400),
        ("2.96", {"imageRef": "no-uuid"}, 400),
        ("2.96", {"imageRef": ""}, 400),
        ("2.96", {"flavorRef": "none"}, 400),
        ("2.96", {"flavorRef": ...}, 400),
        ("2.96", {"flavorRef": 2**70}, 400),
        ("2.96", {"networks": ...}, 400),
        ("2.96", {"networks": "some"}, 400),
        ("2.96", {"networks": [{}]}, 400),
        ("2.96", {"networks": [{"uuid": NOWHERE}]}, 400),
        ("2.96", {"networks": [{"port": NOWHERE}]}, 400),
        ("2.96", {"networks": [{"port": NOWHERE}, {"port": NOWHERE}]}, 400),
        ("2.96", {"networks": [{"port": NOWHERE, "fixed_ip": "10.0.0.9"}]}, 400),
        ("2.96", {"networks": [{"uuid": NOWHERE, "fixed_ip": "ten"}]}, 400),
        ("2.36", {"networks": "auto"}, 400),
        ("2.96", {"key_name": "nobody's"}, 400),
        ("2.96", {"user_data": "not base64!"}, 400),
        ("2.96", {"user_data": "QUFB" * 20000}, 400),
        ("2.57", {"personality": [FILE]}, 400),
        ("2.1", {"personality": [FILE] * 6}, 400),
        ("2.1", {"personality": [{"path": "/x", "contents": "?"}]}, 400),
        ("2.1", {"personality": [{"path": "/x" * 200, "contents": ""}]}, 403),
        ("2.1", {"personality": [{"path": "/x", "contents": "QUFB" * 5000}]}, 403),
        ("2.51", {"tags": ["a"]}, 400),
        ("2.52", {"tags": ["a,b"]}, 400),
        ("2.52", {"tags": [str(at) for at in range(51)]}, 400),
        ("2.89", {"hostname": "x"}, 400),
        ("2.90", {"hostname": "dotted.name"}, 400),
        ("2.90", {"hostname": "bad_name!"}, 400),
        ("2.96", {"metadata": {"k" * 256: "v"}}, 400),
        ("2.96", {"metadata": {"k": "v" * 256}}, 400),
        ("2.96", {"metadata": {"k": 5}}, 400),
        ("2.96", {"metadata": {f"k{at}": "v" for at in range(129)}}, 403),
        ("2.96", {"min_count": 3, "max_count": 2}, 400),
        ("2.96", {"min_count": 0}, 400),
        ("2.96", {"max_count": -1}, 400),
        ("2.96", {"max_count": 2**70}, 400),
        ("2.96", {"min_count": 999}, 403),
        ("2.96", {"accessIPv4": "::1"}, 400),
        ("2.96", {"accessIPv6": "nowhere"}, 400),
        ("2.96", {"config_drive": "perhaps"}, 400),
        ("2.96", {"availability_zone": "nova:host-1"}, 403),
        ("2.96", {"host": "host-1"}, 403),
        ("2.73", {"host": "host-1"}, 400),
        ("2.96", {"block_device_mapping_v2": [{"source_type": "volume", "uuid": NOWHERE}]}, 400),
        ("2.96", {"unknown": 1}, 400),
    ],
)
async def test_what_may_not_is_refused_and_leaves_nothing(house, at, fields, code):
    answer = await house.create(at=at, **fields)
    assert answer.status_code == code, answer.text
    assert (await house.get("/servers", by="member"))["servers"] == []
    assert await house.used() == {"instances": 0, "cores": 0, "ram": 0}


async def test_an_image_must_be_ready_and_fit_the_flavor(house):
    for values in ({"status": "queued"}, {"min_ram": 10**6}, {"min_disk": 10**6}):
        answer = await house.create(imageRef=await house.add_image(**values))
        assert answer.status_code == 400, values
    others = await house.create(by="member-2")
    assert others.status_code == 400


async def test_several_servers_are_made_at_once_and_share_a_reservation(house):
    answer = await house.create(min_count=2, max_count=3, return_reservation_id=True)
    reservation = answer.json()["reservation_id"]
    path = f"/servers/detail?reservation_id={reservation}&sort_key=display_name&sort_dir=asc"
    names = [one["name"] for one in (await house.get(path, by="member"))["servers"]]
    assert names == ["one-1", "one-2", "one-3"]
    assert (await house.used())["instances"] == 3


async def test_an_admin_without_a_project_is_told_so(house, callers):
    admin = callers.principals["admin"]
    callers.principals["system-admin"] = dataclasses.replace(
        admin, project_id=None, project_name=None, project_domain_id=None, is_system=True
    )
    answer = await house.create(by="system-admin")
    assert answer.status_code == 400


async def test_a_server_is_its_projects_own(house):
    server = await house.made()
    path = f"/servers/{server['id']}"
    calls = [
        ("GET", path, None),
        ("PUT", path, {"server": {"name": "mine"}}),
        ("DELETE", path, None),
        ("POST", path + "/action", {"lock": None}),
        ("POST", path + "/action", {"os-getConsoleOutput": {}}),
        ("GET", path + "/metadata", None),
        ("PUT", path + "/tags/x", None),
        ("GET", path + "/os-instance-actions", None),
        ("GET", path + "/ips", None),
    ]
    for method, where, body in calls:
        answer = await house.ask(method, where, by="member-2", at="2.96", json=body)
        assert answer.status_code == 404, (method, where)
    assert (await house.get("/servers", by="member-2"))["servers"] == []
    listed = await house.get("/servers?all_tenants=1", by="admin")
    assert [one["id"] for one in listed["servers"]] == [server["id"]]
    assert (await house.ask("GET", "/servers?all_tenants=1", by="member")).status_code == 403


async def test_what_the_tenant_owns_is_changed(house):
    server = await house.made()
    body = {"server": {"name": " two ", "accessIPv4": "192.0.2.9", "description": None}}
    answer = await house.ask("PUT", f"/servers/{server['id']}", by="member", at="2.96", json=body)
    assert answer.status_code == 200, answer.text
    after = (await house.get(f"/servers/{server['id']}", by="member", at="2.96"))["server"]
    assert (after["name"], after["accessIPv4"]) == ("two", "192.0.2.9")
    for wrong in ({"name": ""}, {"status": "ACTIVE"}, {"accessIPv4": "x"}, {"hostname": "a b"}):
        path = f"/servers/{server['id']}"
        answer = await house.ask("PUT", path, by="member", at="2.96", json={"server": wrong})
        assert answer.status_code == 400, wrong


async def test_a_server_may_be_deleted_twice_while_it_goes(house):
    server = await house.made()
    for _ in range(2):
        answer = await house.ask("DELETE", f"/servers/{server['id']}", by="member")
        assert answer.status_code == 204
    shown = (await house.get(f"/servers/{server['id']}", by="member"))["server"]
    assert shown["OS-EXT-STS:task_state"] == "deleting"


# -- by microversion

ADMINS = {
    (2, 1): {
        "OS-EXT-SRV-ATTR:host",
        "OS-EXT-SRV-ATTR:hypervisor_hostname",
        "OS-EXT-SRV-ATTR:instance_name",
    },
    (2, 3): {
        "OS-EXT-SRV-ATTR:hostname",
        "OS-EXT-SRV-ATTR:kernel_id",
        "OS-EXT-SRV-ATTR:launch_index",
        "OS-EXT-SRV-ATTR:ramdisk_id",
        "OS-EXT-SRV-ATTR:reservation_id",
        "OS-EXT-SRV-ATTR:root_device_name",
        "OS-EXT-SRV-ATTR:user_data",
    },
    (2, 16): {"host_status"},
}
EVERYONES = {
    (2, 9): {"locked"},
    (2, 19): {"description"},
    (2, 26): {"tags"},
    (2, 63): {"trusted_image_certificates"},
    (2, 71): {"server_groups"},
    (2, 73): {"locked_reason"},
    (2, 90): {"OS-EXT-SRV-ATTR:hostname"},
    (2, 96): {"pinned_availability_zone"},
}
VERSIONS = sorted({*ADMINS, *EVERYONES, (2, 8), (2, 47), (2, 75)})


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: "{}.{}".format(*v))
async def test_each_version_shows_what_it_brought(house, version):
    server_id = (await house.made())["id"]
    at = "{}.{}".format(*version)
    first = set((await house.get(f"/servers/{server_id}", by="member", at="2.1"))["server"])
    mine = await house.get(f"/servers/{server_id}", by="member", at=at)
    brought = [keys for since, keys in EVERYONES.items() if since <= version]
    assert set(mine["server"]) == first.union(*brought)
    admins = [keys for since, keys in ADMINS.items() if since <= version]
    theirs = await house.get(f"/servers/{server_id}", by="admin", at=at)
    assert set(theirs["server"]) == set(mine["server"]).union(*admins)
    assert ("id" in mine["server"]["flavor"]) is (version < (2, 47))
    [listed] = (await house.get("/servers/detail", by="member", at=at))["servers"]
    assert set(listed) == set(mine["server"]) - {"server_groups"}


# -- lists


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "cba"),
        ("sort_key=display_name&sort_dir=asc", "abc"),
        ("limit=2", "cb"),
        ("limit=0", ""),
        ("name=^a", "a"),
        ("name=[ab]", "ba"),
        ("name=(a%2B)%2B$", "a"),
        ("status=BUILD", "cba"),
        ("status=active", ""),
        ("image=IMAGE", "cba"),
        (f"image={NOWHERE}", ""),
        ("tags=t-a", "a"),
        ("tags=T-A", ""),
        ("tags-any=t-a,t-b", "ba"),
        ("not-tags=t-a", "cb"),
        ("not-tags-any=t-a,t-b", "c"),
        ("locked=true", ""),
        ("locked=false", "cba"),
        ("metadata={'k':'a'}", "a"),
        ("changes-since=2001-01-01T00:00:00Z", "cba"),
        ("changes-since=2101-01-01T00:00:00Z", ""),
        ("ip=10.0.0", ""),
        ("hostname=zzz", "cba"),
    ],
)
async def test_a_list_is_filtered(house, clock, query, names):
    for name in "abc":
        await house.made(name=name, tags=[f"t-{name}"], metadata={"k": name})
        await clock.advance(1)
    path = "/servers?" + query.replace("IMAGE", house.image_id)
    listed = (await house.get(path, by="member", at="2.73"))["servers"]
    assert "".join(one["name"] for one in listed) == names


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        f"marker={NOWHERE}",
        "sort_key=secret",
        "sort_key=host",
        "sort_dir=up&sort_key=created_at",
        "name=[",
        "name=(?<=a)b",
        "changes-since=yesterday",
        "changes-since=2021-01-01T00:00:00Z&changes-before=2020-01-01T00:00:00Z",
        "status=SIDEWAYS",
        "locked=perhaps",
        "all_tenants=perhaps",
        "metadata=x",
        "unknown=1",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(house, query):
    answer = await house.ask("GET", "/servers?" + query, by="member", at="2.75")
    assert answer.status_code == 400, answer.text


async def test_pages_are_walked_without_gap_or_repeat(house):
    for name in "abcde":
        await house.made(name=name)
    path, seen = "/servers?limit=2&sort_key=display_name&sort_dir=asc", []
    for _ in range(4):
        body = await house.get(path, by="member")
        seen += [one["name"] for one in body["servers"]]
        if not body.get("servers_links"):
            break
        path = body["servers_links"][0]["href"].partition("/v2.1")[2]
    assert "".join(seen) == "abcde"


# -- actions

BODIES = {
    "reboot_soft": {"reboot": {"type": "SOFT"}},
    "reboot_hard": {"reboot": {"type": "HARD"}},
}
STATES = ("building", "active", "stopped", "paused", "suspended", "error")


@pytest.mark.parametrize("vm_state", STATES)
@pytest.mark.parametrize("transition", TRANSITIONS)
async def test_an_action_starts_from_its_states_only(house, transition, vm_state):
    server_id = await house.cloud.add_server("s", vm_state=vm_state)
    body = BODIES.get(transition, {transition: None})
    answer = await house.ask("POST", f"/servers/{server_id}/action", by="member", json=body)
    allowed = vm_state in TRANSITIONS[transition].vm_states
    assert answer.status_code == (202 if allowed else 409), answer.text
    shown = (await house.get(f"/servers/{server_id}", by="member"))["server"]
    task = TRANSITIONS[transition].task_state if allowed else None
    assert shown["OS-EXT-STS:task_state"] == task


async def test_while_one_action_is_under_way_another_is_refused(house):
    server_id = await house.cloud.add_server("s")
    path = f"/servers/{server_id}/action"
    assert (await house.ask("POST", path, by="member", json={"os-stop": None})).status_code == 202
    assert (await house.ask("POST", path, by="member", json={"pause": None})).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"dance": None},
        {"os-start": None, "os-stop": None},
        {"reboot": {}},
        {"reboot": {"type": "MEDIUM"}},
        {"reboot": {"type": "SOFT", "more": 1}},
        {"os-getConsoleOutput": {"length": -2}},
        {"os-getConsoleOutput": {"length": 2**70}},
        {"os-getConsoleOutput": {"length": "x"}},
    ],
)
async def test_an_action_that_is_none_is_refused(house, body):
    server_id = await house.cloud.add_server("s")
    answer = await house.ask("POST", f"/servers/{server_id}/action", by="member", json=body)
    assert answer.status_code == 400, answer.text


async def test_a_locked_server_yields_to_admins_only(house):
    server_id = await house.cloud.add_server("s")
    path = f"/servers/{server_id}/action"
    reason = {"lock": {"locked_reason": "mine"}}
    assert (await house.ask("POST", path, by="member", at="2.73", json=reason)).status_code == 202
    shown = (await house.get(f"/servers/{server_id}", by="member", at="2.73"))["server"]
    assert (shown["locked"], shown["locked_reason"]) == (True, "mine")
    assert (await house.ask("POST", path, by="member", json={"os-stop": None})).status_code == 409
    assert (await house.ask("DELETE", f"/servers/{server_id}", by="member")).status_code == 409
    assert (await house.ask("POST", path, by="member", json={"unlock": None})).status_code == 202
    assert (await house.ask("POST", path, by="member", json={"os-stop": None})).status_code == 202


async def test_the_console_is_given_without_control_characters(house):
    server_id = await house.cloud.add_server("s", host_id=await house.cloud.add_host("h"))
    path = f"/servers/{server_id}/action"
    for length, expected in ((2, "line 2\nline 3\n"), (None, "line 1\nline 2\nline 3\n"), (0, "")):
        body = {"os-getConsoleOutput": {"length": length}}
        answer = await house.ask("POST", path, by="member", json=body)
        assert answer.json() == {"output": expected}, length


async def test_what_was_asked_of_a_server_is_told_newest_first(house, clock):
    server_id = (await house.made())["id"]
    await clock.advance(1)
    lock = await house.ask("POST", f"/servers/{server_id}/action", by="member", json={"lock": None})
    path = f"/servers/{server_id}/os-instance-actions"
    for at in ("2.1", "2.21", "2.58", "2.66"):
        listed = (await house.get(path, by="member", at=at))["instanceActions"]
        assert [one["action"] for one in listed] == ["lock", "create"]
        assert ("updated_at" in listed[0]) is (at in ("2.58", "2.66"))
    request_id = lock.headers["x-openstack-request-id"]
    for at in ("2.1", "2.51", "2.62", "2.84"):
        one = (await house.get(f"{path}/{request_id}", by="member", at=at))["instanceAction"]
        assert ("events" in one) is (at != "2.1")
    page = await house.get(path + "?limit=1", by="member", at="2.58")
    assert [one["action"] for one in page["instanceActions"]] == ["lock"]
    assert page["links"][0]["rel"] == "next"
    assert (await house.ask("GET", f"{path}/req-x", by="member")).status_code == 404
    wrong = await house.ask("GET", path + "?marker=x", by="member", at="2.58")
    assert wrong.status_code == 400


# -- labels


async def test_metadata_is_set_item_by_item_and_as_a_whole(house):
    path = f"/servers/{await house.cloud.add_server('s')}/metadata"

    async def ask(method, where="", **body):
        answer = await house.ask(method, path + where, by="member", json=body or None)
        return answer.status_code, answer.json() if answer.content else None

    assert await ask("POST", metadata={"a": "1"}) == (200, {"metadata": {"a": "1"}})
    assert await ask("POST", metadata={"b": "2"}) == (200, {"metadata": {"a": "1", "b": "2"}})
    assert await ask("PUT", "/a", meta={"a": "3"}) == (200, {"meta": {"a": "3"}})
    assert await ask("GET", "/a") == (200, {"meta": {"a": "3"}})
    assert (await ask("PUT", "/a", meta={"b": "3"}))[0] == 400
    assert (await ask("PUT", "/a", meta={"a": "3", "b": "3"}))[0] == 400
    assert (await ask("POST", metadata={"": "x"}))[0] == 400
    assert (await ask("POST", metadata={f"k{at}": "v" for at in range(127)}))[0] == 403
    assert await ask("DELETE", "/a") == (204, None)
    assert (await ask("DELETE", "/a"))[0] == 404
    assert await ask("PUT", metadata={"z": "9"}) == (200, {"metadata": {"z": "9"}})
    assert await ask("GET") == (200, {"metadata": {"z": "9"}})


async def test_tags_are_set_one_by_one_and_as_a_whole(house):
    path = f"/servers/{await house.cloud.add_server('s')}/tags"

    async def ask(method, where="", **body):
        answer = await house.ask(method, path + where, by="member", at="2.26", json=body or None)
        return answer.status_code

    assert await ask("PUT", "/a") == 201
    assert await ask("PUT", "/a") == 204
    assert await ask("GET", "/a") == 204
    assert await ask("GET", "/b") == 404
    assert await ask("PUT", "/" + "x" * 61) == 400
    assert await ask("PUT", "/a%2Cb") == 400
    assert await ask("PUT", tags=["c", "b", "c"]) == 200
    assert (await house.get(path, by="member", at="2.26"))["tags"] == ["b", "c"]
    assert await ask("PUT", tags=[str(at) for at in range(51)]) == 400
    assert await ask("DELETE", "/b") == 204
    assert await ask("DELETE", "/b") == 404
    assert await ask("DELETE") == 204
    assert (await house.get(path, by="member", at="2.26"))["tags"] == []
    assert (await house.ask("GET", path, by="member", at="2.25")).status_code == 404
