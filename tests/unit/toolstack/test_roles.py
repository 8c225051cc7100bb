"""Who may do what: every role has what the ones below it have, and no more."""

import asyncio
import base64
from http.client import HTTPConnection

import pytest

from xenith.core.clock import SystemClock
from xenith.core.ids import Ids
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.classes import table
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.roles import ROLES, Account, rank_of
from xenith.xapi import XapiFault, XapiSession

ACCOUNTS = {role: Account(f"{role}'s own", role) for role in ROLES}


@pytest.fixture
async def host():
    world = World(SystemClock(), Ids(1))
    fleet = Fleet(world, event_batch_s=0)
    backend = SimBackend(world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB)
    end = await fleet.add_host("h", backend, password="root's", accounts=ACCOUNTS)
    yield end.url
    await fleet.stop()


async def login(url, user, password=None):
    return await XapiSession.login(url, user=user, password=password or f"{user}'s own")


@pytest.mark.parametrize(
    ("method", "least"),
    [
        ("VM.get_all_records", "read-only"),
        ("event.from", "read-only"),
        ("session.get_this_host", "read-only"),
        ("VM.start", "vm-operator"),
        ("VM.create", "vm-admin"),
        ("VM.set_name_label", "vm-admin"),
        ("VDI.create", "vm-admin"),
        ("VM.snapshot", "vm-power-admin"),
        ("VM.migrate_send", "vm-power-admin"),
        ("host.disable", "pool-operator"),
        ("network.create", "pool-operator"),
        ("secret.get_record", "pool-operator"),
        ("secret.get_all_records", "pool-operator"),
        ("host.call_plugin", "pool-admin"),
        ("subject.create", "pool-admin"),
        ("pool.join", "pool-admin"),
    ],
)
def test_the_least_role_of_a_method(method, least):
    assert ROLES[rank_of(method)] == least
    assert table()[method].rank == rank_of(method)


def test_nothing_that_changes_a_thing_is_a_reader_s():
    words = ("create", "destroy", "set_", "add_", "remove_", "plug", "start", "shutdown")
    for name in table():
        of, _, method = name.partition(".")
        # A session and a task are known by secrets, and one's own.
        if of not in ("task", "event", "session") and method.startswith(words):
            assert rank_of(name) > 0, name


async def test_a_session_may_what_its_role_may(host):
    root = await login(host, "root", "root's")
    record = {"name_label": "x", "memory_static_max": GIB}
    vm = await root.call("VM.create", record)
    for at, role in enumerate(ROLES):
        session = await login(host, role)
        assert vm in await session.call("VM.get_all_records")
        for method, params in (
            ("VM.start", (vm, True, False)),
            ("VM.create", (record,)),
            ("VM.snapshot", (vm, "s")),
            ("host.disable", ((await root.call("host.get_all"))[0],)),
            ("subject.get_all", ()),
            ("subject.create", ({"subject_identifier": role},)),
        ):
            if rank_of(method) <= at:
                await session.call(method, *params)
                if method == "VM.start":
                    await root.call("VM.hard_shutdown", vm)
                if method == "host.disable":
                    await root.call("host.enable", *params)
                continue
            with pytest.raises(XapiFault) as caught:
                await session.call(method, *params)
            assert caught.value.description[:2] == ["RBAC_PERMISSION_DENIED", method.lower()]
            with pytest.raises(XapiFault, match="RBAC_PERMISSION_DENIED"):
                await session.call(f"Async.{method}", *params)
        await session.close()
    await root.close()


async def test_what_a_migration_is_received_with_is_no_more_than_its_caller_s(host):
    session = await login(host, "vm-power-admin")
    (here,), (network,) = await session.call("host.get_all"), await session.call("network.get_all")
    given = await session.call("host.migrate_receive", here, network, {})
    adopted = XapiSession.adopt(given["master"], given["session_id"])
    with pytest.raises(XapiFault, match="RBAC_PERMISSION_DENIED"):
        await adopted.call("host.disable", here)
    for each in (adopted, session):
        await each.close()


async def test_a_wrong_password_and_an_unknown_user_are_told_the_same(host):
    found = []
    for user, password in (("read-only", "wrong"), ("nobody", "wrong"), ("root", "wrong")):
        with pytest.raises(XapiFault) as caught:
            await login(host, user, password)
        found.append((caught.value.code, caught.value.params[1:]))
    assert len(set(found)) == 1


async def test_a_password_is_changed_by_who_knows_it(host):
    session = await login(host, "pool-admin")
    with pytest.raises(XapiFault, match="SESSION_AUTHENTICATION_FAILED"):
        await session.call("session.change_password", "wrong", "new")
    with pytest.raises(XapiFault, match="CHANGE_PASSWORD_REJECTED"):
        await session.call("session.change_password", "pool-admin's own", "")
    await session.call("session.change_password", "pool-admin's own", "new")
    await (await login(host, "pool-admin", "new")).close()
    reader = await login(host, "read-only")
    assert await session.call("session.get_all_subject_identifiers") == ["pool-admin", "read-only"]
    await session.call("session.logout_subject_identifier", "read-only")
    assert await session.call("session.get_all_subject_identifiers") == ["pool-admin"]
    for each in (session, reader):
        await each.close()


async def test_roles_and_their_permissions_can_be_read(host):
    root = await login(host, "root", "root's")
    named = {
        row["name_label"]: ref for ref, row in (await root.call("role.get_all_records")).items()
    }
    assert set(ROLES) <= set(named)
    names = await root.call("role.get_permissions_name_label", named["vm-operator"])
    assert "vm.start" in names
    assert "vm.create" not in names
    having = await root.call("role.get_by_permission_name_label", "VM.create")
    assert {await root.call("role.get_name_label", ref) for ref in having} == set(ROLES[2:])
    assert await root.call("role.get_by_permission", named["vm.create"]) == having
    (found,) = await root.call("role.get_by_name_label", "read-only")
    uuid = await root.call("role.get_uuid", found)
    assert await root.call("role.get_by_uuid", uuid) == found
    subject = await root.call("subject.create", {"subject_identifier": "S-1-5"})
    await root.call("subject.add_to_roles", subject, named["vm-operator"])
    assert await root.call("subject.get_permissions_name_label", subject) == names
    for code, method, role in (
        ("ROLE_ALREADY_EXISTS", "add_to_roles", named["vm-operator"]),
        ("ROLE_NOT_FOUND", "add_to_roles", named["vm.start"]),
        ("ROLE_NOT_FOUND", "remove_from_roles", named["read-only"]),
    ):
        with pytest.raises(XapiFault, match=code):
            await root.call(f"subject.{method}", subject, role)
    await root.call("subject.remove_from_roles", subject, named["vm-operator"])
    await root.call("subject.destroy", subject)
    await root.close()


@pytest.mark.parametrize(
    ("verb", "path", "least"),
    [
        ("GET", "/export", "vm-admin"),
        ("PUT", "/import", "vm-admin"),
        ("GET", "/export_raw_vdi", "vm-admin"),
        ("PUT", "/import_raw_vdi", "vm-admin"),
        ("GET", "/host_rrd", "read-only"),
        ("GET", "/rrd_updates?start=0", "read-only"),
    ],
)
@pytest.mark.parametrize("by", ["session", "name"])
async def test_the_least_role_of_a_transfer(host, verb, path, least, by):
    for role in ROLES:
        status = await ask(host, verb, path, role, by)
        is_refused = ROLES.index(role) < ROLES.index(least)
        assert (status == 403) == is_refused, role
        assert status != 401
    assert await ask(host, verb, path, "nobody", by) == 401


async def ask(url, verb, path, user, by):
    """Ask for a transfer of nothing as a user; give the status."""
    headers = {}
    if by == "name":
        told = base64.b64encode(f"{user}:{user}'s own".encode()).decode()
        headers["authorization"] = f"Basic {told}"
    elif user == "nobody":
        headers["cookie"] = "session_id=OpaqueRef:none"
    else:
        headers["cookie"] = f"session_id={(await login(url, user))._reference}"

    def run():
        connection = HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.request(verb, path, headers=headers)
        status = connection.getresponse().status
        connection.close()
        return status

    return await asyncio.to_thread(run)
