"""Callers who err or attack: each gets an answer, none gets in, and the host lives on."""

import base64
import contextlib
import random

import msgspec
import pytest

from xenith.core.limits import XAPI_BODY_BYTES_MAX
from xenith.core.units import MIB
from xenith.toolstack.schema import CLASSES
from xenith.toolstack.server import SESSIONS_MAX
from xenith.xapi import XapiFault, XapiSession, jsonrpc
from xenith.xapi.client import HttpClient

#: What may be called without a session.
OPEN = {
    "session.login_with_password",
    "session.slave_local_login_with_password",
    "session.logout",
    "session.local_logout",
    "system.listMethods",
}


@pytest.fixture
def http(sim_host):
    client = HttpClient(sim_host.url, connections_max=2)
    yield client
    client.close()


async def post(http, body, path="/jsonrpc"):
    return await http.request("POST", path, body, timeout_s=10)


async def anonymous(http, method, params):
    """Call without adding a session."""
    return jsonrpc.decode_answer((await post(http, jsonrpc.encode_call(method, params, 1))).body)


async def test_a_json_call_is_answered_as_xapi_does(sim_host, http):
    body = b'{"jsonrpc":"2.0","id":1,"method":"session.login_with_password","params":["root","x"]}'
    reply = await post(http, body)
    assert (reply.status, reply.media_type) == (200, "application/json")
    assert msgspec.json.decode(reply.body)["error"] == {
        "code": 1,
        "message": "SESSION_AUTHENTICATION_FAILED",
        "data": ["root", "Authentication failure"],
    }


@pytest.mark.parametrize(
    "params",
    [
        b"[]",
        b'[""]',
        b'["root"]',
        b'["root",null]',
        b"[null,null]",
        b'["root",["x"]]',
        rb'["root","\ud800"]',
        rb'["\ud800","x"]',
    ],
)
async def test_no_login_without_the_password(sim_host, http, params):
    reply = await post(
        http, b'{"id":1,"method":"session.login_with_password","params":%s}' % params
    )
    assert reply.status == 500 or msgspec.json.decode(reply.body)["error"]
    assert sim_host.server.objects.all("session").keys() == {sim_host.session._reference}


@pytest.mark.parametrize("reference", ["", "OpaqueRef:NULL", "OpaqueRef:guess", None, 5, [], {}])
async def test_every_method_but_the_open_ones_wants_a_session(http, reference):
    methods = set(await anonymous(http, "system.listMethods", []))
    assert len(methods) > 500
    assert methods > OPEN
    for name in methods - OPEN:
        with pytest.raises(XapiFault) as caught:
            await anonymous(http, name, [reference])
        assert caught.value.code == "SESSION_INVALID", name


async def test_sessions_cannot_be_listed_and_an_ended_one_is_gone(sim_host, http):
    for method in ("session.get_all", "session.get_all_records"):
        assert (await sim_host.fault(method))[0] == "MESSAGE_METHOD_UNKNOWN"
    other = await XapiSession.login(sim_host.url, user="root", password=sim_host.password)
    reference = other._reference
    await other.logout()
    with pytest.raises(XapiFault, match="SESSION_INVALID"):
        await anonymous(http, "VM.get_all", [reference])


async def test_the_oldest_session_of_an_originator_goes_when_there_are_too_many(sim_host):
    server = sim_host.server
    for number in range(SESSIONS_MAX + 5):
        server.login("root", sim_host.password, "greedy")
        assert number >= 0
    sessions = server.objects.all("session").values()
    assert sum(record["originator"] == "greedy" for record in sessions) == SESSIONS_MAX
    assert await sim_host.call("VM.get_all") == []


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"null", b"{}", b"[" * 100_000, b'{"method":"VM.get_all","params":[],"id":null}'],
    ids=range(6),
)
@pytest.mark.parametrize("path", ["/jsonrpc", "/", "/RPC2", "/xmlrpc"])
async def test_what_is_no_call_is_a_500_with_a_page(sim_host, http, body, path):
    reply = await post(http, body, path)
    assert (reply.status, reply.media_type) == (500, "text/html")
    assert await sim_host.call("VM.get_all") == []


async def test_a_call_beyond_the_limit_is_refused(sim_host, http):
    assert (await post(http, b" " * (XAPI_BODY_BYTES_MAX + 1))).status == 413
    assert await sim_host.call("VM.get_all") == []


async def test_unknown_pages_are_not_found(http):
    for method in ("GET", "PUT", "DELETE"):
        assert (await http.request(method, "/etc/passwd", b"", timeout_s=5)).status == 404


VALUES = (
    None, True, -1, 2**63, 1e308, "", "x", "\x00", "OpaqueRef:NULL", "²", "9" * 5000,
    [], [[]], ["x"], {}, {"a": []}, {"": ""}, [None] * 50,
)  # fmt: skip


@pytest.mark.slow
async def test_no_value_in_any_place_makes_a_call_more_than_a_fault(sim_host, http):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    refs = [await sim_host.in_state("Running"), await sim_host.make_vdi()]
    for name in CLASSES:
        if name != "session":
            refs += list(await sim_host.call(f"{name}.get_all"))
    methods = set(await anonymous(http, "system.listMethods", [])) - OPEN
    # One of the values is a time to wait for events.
    for name in sorted(methods - {"event.from"}):
        for _ in range(6):
            params = [
                chance.choice(refs) if chance.random() < 0.4 else chance.choice(VALUES)
                for _ in range(chance.randrange(5))
            ]
            with contextlib.suppress(XapiFault):
                await sim_host.call(name, *params)
            assert sim_host.server.objects.all("host"), f"seed {seed}: {name}{params}"
    # Whatever was written, every record can still be read.
    for name in CLASSES:
        if name != "session":
            await sim_host.call(f"{name}.get_all_records")


@pytest.mark.slow
async def test_a_create_with_anything_in_it_is_checked(sim_host):
    sr = (await sim_host.call("SR.get_all"))[0]
    network = (await sim_host.call("network.get_all"))[0]
    vm, vdi = await sim_host.make_vm(), await sim_host.make_vdi()
    whole = {
        "VM": {"name_label": "x", "memory_static_max": MIB, "VCPUs_max": 1},
        "VDI": {"SR": sr, "virtual_size": MIB},
        "VBD": {"VM": vm, "VDI": vdi, "userdevice": "0"},
        "VIF": {"VM": vm, "network": network, "device": "0"},
        "network": {"name_label": "x"},
    }
    for name, record in whole.items():
        for field in CLASSES[name]:
            for value in VALUES:
                try:
                    ref = await sim_host.call(f"{name}.create", {**record, field: value})
                except XapiFault:
                    continue
                await sim_host.call(f"{name}.get_record", ref)
                await sim_host.call(f"{name}.destroy", ref)
    assert list(await sim_host.call("VM.get_all")) == [vm]
    assert list(await sim_host.call("VDI.get_all")) == [vdi]


# -- /import_raw_vdi


async def put(http, target, body=b"bytes", **headers):
    return await http.request("PUT", target, body, timeout_s=10, headers=headers)


async def test_bytes_are_taken_only_from_who_may(sim_host, http):
    vdi = await sim_host.make_vdi()
    target = f"/import_raw_vdi?vdi={vdi}&format=raw"
    good = base64.b64encode(f"root:{sim_host.password}".encode()).decode()
    bad = base64.b64encode(b"root:guess").decode()
    reference = sim_host.session._reference
    assert (await put(http, target)).status == 401
    for headers in (
        {"cookie": "session_id=OpaqueRef:guess"},
        {"cookie": '=;;="'},
        {"authorization": "Basic " + bad},
        {"authorization": "Basic !!!"},
        {"authorization": "Bearer " + good},
    ):
        assert (await put(http, target, **headers)).status == 401, headers
    assert (await put(http, target + "&session_id=OpaqueRef:guess")).status == 401
    for headers in (
        {"cookie": f"a=b; session_id={reference}"},
        {"authorization": "Basic " + good},
    ):
        assert (await put(http, target, **headers)).status == 200, headers
    slashed = f"/import_raw_vdi/?vdi={vdi}&session_id={reference}"
    assert (await put(http, slashed)).status == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "UUID_INVALID"),
        ("vdi=OpaqueRef:no", "HANDLE_INVALID"),
        ("vdi={vdi}&format=qcow2", "INVALID_VALUE"),
        ("vdi={vdi}&format=vhd", "VDI_IO_ERROR"),
    ],
)
async def test_bytes_for_no_disk_or_of_no_format_are_refused(sim_host, http, query, code):
    vdi = await sim_host.make_vdi()
    cookie = f"session_id={sim_host.session._reference}"
    task = await sim_host.call("task.create", "import", "")
    target = f"/import_raw_vdi?task_id={task}&" + query.format(vdi=vdi)
    reply = await put(http, target, cookie=cookie)
    assert reply.status == 500
    assert msgspec.json.decode(reply.body)[0] == code
    assert (await sim_host.call("task.get_error_info", task))[0] == code
    assert await sim_host.call("task.get_status", task) == "failure"
