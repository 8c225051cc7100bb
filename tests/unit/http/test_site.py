"""Requests go prefix, route, version, token, policy, body, handler; each can refuse."""

from __future__ import annotations

from typing import Any

import pytest

from xenith.core.errors import Invalid
from xenith.core.limits import JSON_BODY_BYTES_MAX
from xenith.http import Principal

GOOD = b'{"thing": {"name": "x"}}'


async def test_a_literal_segment_wins_over_a_parameter(client: Any) -> None:
    assert (await client.ask("GET", "/compute/v1/things/all")).json == {
        "url": "http://127.0.0.1/compute"
    }
    assert (await client.ask("GET", "/compute/v1/things/7")).json["id"] == "7"


async def test_an_encoded_slash_stays_part_of_a_name(client: Any) -> None:
    assert (await client.ask("GET", "/compute/v1/things/a%2Fb")).json["id"] == "a/b"


async def test_an_unknown_path_is_told_apart_from_an_unknown_thing(client: Any) -> None:
    reply = await client.ask("GET", "/compute/v1/nothing", accept="application/json")
    assert reply.status == 404
    assert set(reply.json) == {"message", "code", "title"}
    assert (await client.ask("GET", "/elsewhere")).status == 404


async def test_a_known_path_with_another_method_is_405_and_says_which_are_allowed(
    client: Any,
) -> None:
    reply = await client.ask("PATCH", "/compute/v1/things/7")
    assert reply.status == 405
    assert reply.header("allow") == "DELETE, GET"
    assert "badMethod" in reply.json


async def test_a_version_document_needs_no_token(client: Any) -> None:
    assert (await client.ask("GET", "/compute/", token=None)).status == 200


@pytest.mark.parametrize("token", [None, "forged", ""])
async def test_without_a_good_token_the_answer_is_401_and_names_identity(
    client: Any, token: str | None
) -> None:
    reply = await client.ask("GET", "/compute/v1/things/7", token=token)
    assert reply.status == 401
    assert reply.header("www-authenticate") == 'Keystone uri="http://127.0.0.1/identity"'
    assert reply.json["error"]["code"] == 401


async def test_a_role_that_is_too_low_is_403(client: Any) -> None:
    reply = await client.ask("POST", "/compute/v1/things", GOOD, token="reader")
    assert reply.status == 403
    assert "things:create" in reply.json["forbidden"]["message"]
    assert (await client.ask("POST", "/compute/v1/things", GOOD)).status == 202


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("compute 2.50", 200),
        ("compute latest", 200),
        ("volume 3.1, compute 2.7", 200),
        ("volume 3.1", 200),
        ("compute 2.97", 406),
        ("compute 1.0", 406),
        ("compute 2", 400),
        ("compute x.y", 400),
        ("compute 2.01", 400),
        ("compute 2.99999999999", 400),
    ],
)
async def test_microversions_are_negotiated(client: Any, header: str, status: int) -> None:
    reply = await client.ask("GET", "/compute/v1/things/7", openstack_api_version=header)
    assert reply.status == status
    vary = [value for name, value in reply.headers if name == "vary"]
    assert vary == ["OpenStack-API-Version", "X-OpenStack-Nova-API-Version"]


async def test_the_newer_version_header_wins_and_the_answer_names_the_version_used(
    client: Any,
) -> None:
    reply = await client.ask(
        "GET",
        "/compute/v1/things/7",
        openstack_api_version="compute 2.50",
        x_openstack_nova_api_version="2.3",
    )
    assert reply.json["version"] == [2, 50]
    assert reply.header("openstack-api-version") == "compute 2.50"
    assert reply.header("x-openstack-nova-api-version") == "2.50"
    old = await client.ask("GET", "/compute/v1/things/7", x_openstack_nova_api_version="2.3")
    assert old.json["version"] == [2, 3]


async def test_a_route_of_a_later_version_is_not_there_before(client: Any) -> None:
    assert (await client.ask("GET", "/compute/v1/late")).status == 404
    late = await client.ask("GET", "/compute/v1/late", openstack_api_version="compute 2.60")
    assert late.status == 200


async def test_the_body_follows_the_version(client: Any) -> None:
    new = {"openstack_api_version": "compute 2.50"}
    assert (await client.ask("POST", "/compute/v1/things", GOOD)).status == 202
    assert (await client.ask("POST", "/compute/v1/things", GOOD, **new)).status == 400
    noted = b'{"thing": {"name": "x"}, "note": "n"}'
    assert (await client.ask("POST", "/compute/v1/things", noted, **new)).status == 202
    assert (await client.ask("POST", "/compute/v1/things", noted)).status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Malformed"),
        (b"{", "Malformed"),
        (b"[]", "Invalid input"),
        (b'{"thing": 1}', "thing"),
        (b'{"thing": {"name": 1}}', "thing.name"),
        (b'{"thing": {"name": "x", "y": 1}}', "('y' was unexpected)"),
        (b'{"thing": {"name": "a\\u0000b"}}', "NUL"),
        (b"\xff", "Malformed"),
        (b'{"thing":' + b"[" * 100_000, "Invalid input"),
    ],
)
async def test_a_bad_body_is_400_with_what_is_wrong(client: Any, body: bytes, said: str) -> None:
    reply = await client.ask("POST", "/compute/v1/things", body)
    assert reply.status == 400
    assert said in reply.json["badRequest"]["message"]


async def test_a_body_above_the_limit_is_413(client: Any) -> None:
    chunks = [b" " * 65536] * (JSON_BODY_BYTES_MAX // 65536 + 1)
    assert (await client.ask("POST", "/compute/v1/things", chunks=chunks)).status == 413


async def test_a_media_type_that_is_not_taken_is_415(client: Any) -> None:
    reply = await client.ask("POST", "/compute/v1/things", GOOD, content_type="text/xml")
    assert reply.status == 415
    charset = "application/json; charset=utf-8"
    taken = await client.ask("POST", "/compute/v1/things", GOOD, content_type=charset)
    assert taken.status == 202


async def test_actions_are_told_apart_by_the_bodys_key(client: Any) -> None:
    path = "/compute/v1/things/7/action"
    assert (await client.ask("POST", path, b'{"os-start": null}')).status == 202
    reply = await client.ask("POST", path, b'{"reboot": {"type": "HARD"}}')
    assert reply.json == {"rebooted": "HARD"}
    for body in (
        b'{"reboot": {}}',
        b'{"os-jump": null}',
        b"{}",
        b"[]",
        b"null",
        b'{"os-start": null, "reboot": {"type": "HARD"}}',
        b'{"os-start":' + b"[" * 100_000,
    ):
        assert (await client.ask("POST", path, body)).status == 400


async def test_streams_go_in_and_out_in_pieces(client: Any) -> None:
    path = "/compute/v1/things/7/file"
    reply = await client.ask("PUT", path, chunks=[b"abc", b"", b"de"])
    assert reply.json == {"size": 5}
    got = await client.ask("GET", path)
    assert got.body == b"abcd"
    assert got.header("content-length") == "4"


async def test_unknown_query_names_are_refused_from_the_version_that_says_so(client: Any) -> None:
    path = "/compute/v1/things/7?limit=1&colour=red"
    assert (await client.ask("GET", path)).status == 200
    reply = await client.ask("GET", path, openstack_api_version="compute 2.75")
    assert reply.status == 400
    assert "colour" in reply.json["badRequest"]["message"]


async def test_a_failure_of_ours_is_500_without_its_detail(client: Any) -> None:
    reply = await client.ask("GET", "/compute/v1/crash")
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert reply.json["computeFault"]["code"] == 500


async def test_every_answer_carries_its_request_id(client: Any) -> None:
    first = await client.ask("GET", "/compute/v1/things/7")
    second = await client.ask("GET", "/compute/v1/nothing")
    ids = {reply.header("x-openstack-request-id") for reply in (first, second)}
    assert len(ids) == 2
    assert all(item.startswith("req-") for item in ids)


async def test_links_follow_the_host_that_was_asked_and_a_proxys_word(client: Any) -> None:
    reply = await client.ask("GET", "/compute/", host="cloud.example:5000")
    assert reply.json["url"] == "http://cloud.example:5000/compute"
    reply = await client.ask(
        "GET",
        "/compute/",
        host="inner",
        x_forwarded_proto="https",
        x_forwarded_host="outer",
        x_forwarded_prefix="/os/",
    )
    assert reply.json["url"] == "https://outer/os/compute"


async def test_what_belongs_to_a_project_asks_for_a_token_of_one() -> None:
    who = Principal("u", "admin", "default", frozenset({"admin"}), is_system=True)
    with pytest.raises(Invalid, match="scoped to a project"):
        _ = who.project
