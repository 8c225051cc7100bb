"""A session against a host that the test scripts: logins, repeats, deadlines, secrets."""

import asyncio
import traceback
from http.cookies import SimpleCookie

import msgspec
import pytest

from xenith.core.errors import Unavailable
from xenith.xapi import XapiFault, XapiSession, jsonrpc, xmlrpc
from xenith.xapi.wire import Reply

PASSWORD = "pass-the-salt"


class ScriptedHost:
    """Speaks XenAPI; its methods are what the test puts in."""

    def __init__(self, *, speaks_json: bool = True) -> None:
        self.speaks_json = speaks_json
        self.logins = 0
        self.sessions: set[str] = set()
        self.methods = {
            "session.logout": self._logout,
            "pool.get_all": lambda _session: ["OpaqueRef:p"],
        }
        self.imported = b""
        self.requests = []

    def _logout(self, session):
        self.sessions.discard(session)
        return ""

    def call(self, method, params):
        if method == "session.login_with_password":
            if params[:2] != ["root", PASSWORD]:
                raise XapiFault("SESSION_AUTHENTICATION_FAILED", params[0], "no")
            self.logins += 1
            reference = f"OpaqueRef:secret-{self.logins}"
            self.sessions.add(reference)
            return reference
        if params[0] not in self.sessions:
            raise XapiFault("SESSION_INVALID", params[0])
        return self.methods[method](*params)

    async def __call__(self, request):
        self.requests.append(request)
        if request.path == "/import_raw_vdi":
            self.imported = b"".join([piece async for piece in request.chunks])
            cookie = SimpleCookie(request.headers["cookie"])["session_id"].value
            if cookie not in self.sessions:
                return Reply(401, b"<html>", "text/html", is_closing=True)
            if self.imported == b"bad":
                return Reply(500, msgspec.json.encode(["VDI_IO_ERROR", "bad"]), is_closing=True)
            return Reply(200, media_type="text/plain")
        if request.path == "/jsonrpc":
            if not self.speaks_json:
                return Reply(404, b"<html>", "text/html")
            envelope = jsonrpc.decode_call(request.body)
            try:
                return Reply(
                    200,
                    jsonrpc.encode_result(envelope, self.call(envelope.method, envelope.params)),
                )
            except XapiFault as fault:
                return Reply(200, jsonrpc.encode_fault(envelope, fault))
        try:
            return Reply(
                200, xmlrpc.encode_result(self.call(*xmlrpc.decode_call(request.body))), "text/xml"
            )
        except XapiFault as fault:
            return Reply(200, xmlrpc.encode_fault(fault), "text/xml")


def streams(method, _path):
    return method == "PUT"


async def login(served, **choices):
    return await XapiSession.login(served.url, user="root", password=PASSWORD, **choices)


@pytest.mark.parametrize("protocol", ["json", "xml", "auto"])
async def test_a_call_carries_the_session(serve, protocol):
    host = ScriptedHost()
    async with serve(host) as served:
        session = await login(served, protocol=protocol)
        assert await session.call("pool.get_all") == ["OpaqueRef:p"]
        await session.logout()
        assert host.sessions == set()


async def test_a_host_without_json_is_spoken_to_in_xml(serve):
    host = ScriptedHost(speaks_json=False)
    async with serve(host) as served:
        session = await login(served)
        assert await session.call("pool.get_all") == ["OpaqueRef:p"]
        assert [request.path for request in host.requests] == ["/jsonrpc", "/", "/"]
        await session.close()
        with pytest.raises(Unavailable):
            await login(served, protocol="json")


async def test_a_wrong_password_is_a_fault_that_does_not_show_it(serve):
    async with serve(ScriptedHost()) as served:
        with pytest.raises(XapiFault) as caught:
            await XapiSession.login(served.url, user="root", password="wrong-pepper")
        assert caught.value.code == "SESSION_AUTHENTICATION_FAILED"
        assert "wrong-pepper" not in str(caught.value) + repr(caught.value)


async def test_a_forgotten_session_is_begun_anew_once_for_all_calls(serve):
    host = ScriptedHost()
    async with serve(host) as served:
        session = await login(served)
        host.sessions.clear()
        answers = await asyncio.gather(*(session.call("pool.get_all") for _ in range(5)))
        assert answers == [["OpaqueRef:p"]] * 5
        assert host.logins == 2
        await session.close()


async def test_a_session_that_never_holds_ends_in_a_fault(serve):
    host = ScriptedHost()

    def never(session):
        raise XapiFault("SESSION_INVALID", session)

    host.methods["pool.get_all"] = never
    async with serve(host) as served:
        session = await login(served)
        with pytest.raises(XapiFault) as caught:
            await session.call("pool.get_all")
        assert caught.value.code == "SESSION_INVALID"
        assert host.logins == 4
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        await session.close()


async def test_a_slave_says_who_is_master(serve):
    host = ScriptedHost()

    def slave(_session):
        raise XapiFault("HOST_IS_SLAVE", "127.0.0.9")

    host.methods["pool.get_all"] = slave
    async with serve(host) as served:
        session = await login(served)
        with pytest.raises(XapiFault) as caught:
            await session.call("pool.get_all")
        assert caught.value.params == ("127.0.0.9",)
        await session.close()


async def test_events_have_a_connection_of_their_own(serve):
    host = ScriptedHost()
    host.methods["event.from"] = lambda _session, classes, token, timeout: {
        "token": token + "!",
        "events": [{"class": name, "timeout": timeout} for name in classes],
        "valid_ref_counts": {},
    }
    async with serve(host) as served:
        session = await login(served)
        batch = await session.events(["vm"], "t", 30)
        assert (batch.token, batch.events) == ("t!", [{"class": "vm", "timeout": 30.0}])
        assert len(served.connections) == 2
        await session.close()


async def test_a_connection_without_calls_is_given_back(serve, monkeypatch):
    async with serve(ScriptedHost()) as served:
        session = await login(served)
        await session.call("pool.get_all")
        (kept,) = served.connections
        await session.call("pool.get_all")
        assert list(served.connections) == [kept]
        monkeypatch.setattr("xenith.xapi.client.IDLE_S", 0.0)
        session._http._sweep(asyncio.get_running_loop())
        await served.becomes(0)
        assert await session.call("pool.get_all") == ["OpaqueRef:p"]
        # Its own timer, this time.
        await served.becomes(0)
        await session.close()


async def test_events_that_make_no_sense_are_unavailable(serve):
    host = ScriptedHost()
    host.methods["event.from"] = lambda *_: ["what"]
    async with serve(host) as served:
        session = await login(served)
        with pytest.raises(Unavailable):
            await session.events(["vm"], "", 1)
        await session.close()


async def whole(data):
    yield data


async def test_a_disk_s_bytes_arrive_with_session_and_format(serve):
    host = ScriptedHost()
    async with serve(host, streams) as served:
        session = await login(served)
        await session.import_raw_vdi(
            "OpaqueRef:v&x=1", whole(b"bytes"), disk_format="vhd", size_bytes=5, timeout_s=5
        )
        assert host.imported == b"bytes"
        assert host.requests[-1].query == "vdi=OpaqueRef%3Av%26x%3D1&format=vhd"
        assert host.requests[-1].headers["content-length"] == "5"
        await session.close()


async def test_a_refused_disk_raises_the_host_s_fault(serve):
    async with serve(ScriptedHost(), streams) as served:
        session = await login(served)
        with pytest.raises(XapiFault) as caught:
            await session.import_raw_vdi("OpaqueRef:v", whole(b"bad"), timeout_s=5)
        assert caught.value.description == ["VDI_IO_ERROR", "bad"]
        await session.close()


async def test_a_disk_for_a_forgotten_session_can_be_sent_again(serve):
    host = ScriptedHost()
    async with serve(host, streams) as served:
        session = await login(served)
        host.sessions.clear()
        with pytest.raises(Unavailable):
            await session.import_raw_vdi("OpaqueRef:v", whole(b"x"), timeout_s=5)
        await session.import_raw_vdi("OpaqueRef:v", whole(b"x"), timeout_s=5)
        await session.close()


async def test_a_host_that_answers_nonsense_is_unavailable(serve):
    def nonsense(_request):
        return Reply(200, b"{", "application/json")

    async with serve(nonsense) as served:
        for protocol in ("json", "xml"):
            with pytest.raises(Unavailable) as caught:
                await login(served, protocol=protocol)
            assert PASSWORD not in "".join(traceback.format_exception(caught.value))


async def test_a_reference_that_would_end_a_header_is_refused(serve):
    def hostile(request):
        envelope = jsonrpc.decode_call(request.body)
        return Reply(200, jsonrpc.encode_result(envelope, "x\r\nhost: other"))

    async with serve(hostile) as served:
        with pytest.raises(Unavailable, match="makes no sense"):
            await login(served)
