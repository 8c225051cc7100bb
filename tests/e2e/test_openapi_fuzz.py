"""Every operation of a whole cloud, asked with whatever its own description allows, and more.

No answer is 5xx, each error is worded as its service words errors, and what is left counts right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from xenith.compute.endpoints.service import service as compute
from xenith.compute.records import quotas
from xenith.compute.records.servers import servers
from xenith.core.settings import Settings
from xenith.dev.cloud import Cloud
from xenith.http.openapi import document
from xenith.identity.endpoints import service as identity
from xenith.image.endpoints import service as image
from xenith.network.endpoints import service as network
from xenith.network.records.ports import PORTS

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DOCUMENT = document([make(None) for make in (identity, image, network, compute)])
#: Media types that are JSON under another name, which the generator does not know, by path.
OWN_MEDIA: dict[str, str] = {}
for _path, _item in DOCUMENT["paths"].items():
    for _operation in _item.values():
        _content = _operation.get("requestBody", {}).get("content", {})
        for _media in [name for name in _content if name.endswith("-json-patch")]:
            OWN_MEDIA[_path] = _media
            _content["application/json"] = _content.pop(_media)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
#: What deletes comes last, so that the others find something.
OPERATIONS = sorted(
    (found.ok() for found in SCHEMA.get_all_operations()),
    key=lambda operation: operation.method.upper() == "DELETE",
)
#: What would end the session that the test asks with.
SPARED = {("DELETE", "/identity/v3/auth/tokens")}
EXAMPLES = 30

#: What breaks databases, encoders and parsers rather than rules.
NASTY = st.sampled_from(
    [
        "",
        " ",
        "a" * 3000,
        "\x7f",
        "é" * 100,
        "\U0001f600",
        "%00",
        "%2F..%2F",
        "'; DROP TABLE servers;--",
        "9" * 400,
        "-1",
        "1e999",
        "NaN",
        "null",
        "(a+)+$",
        "[",
        "in:",
        "2" * 18,
        "0",
    ]
)


class Running:
    """A cloud with something of each kind in it, on a loop of its own."""

    def __init__(self, directory: Any) -> None:
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.cloud = Cloud(
            Settings(data=str(directory), hosts=1, backend="sim", admin_password="secret-enough"),
            site_url="http://cloud",
        )
        self.run(self._start())

    async def _start(self) -> None:
        await self.cloud.start()
        transport = httpx2.ASGITransport(app=self.cloud.site, raise_app_exceptions=True)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://cloud")
        user = {"name": "admin", "domain": {"id": "default"}, "password": "secret-enough"}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
        }
        answer = await self.client.post("/identity/v3/auth/tokens", json={"auth": auth})
        assert answer.status_code == 201, answer.text
        self.client.headers["X-Auth-Token"] = answer.headers["x-subject-token"]
        token = answer.json()["token"]
        self.project_id = token["project"]["id"]
        #: What the test itself stands on: no write to identity names it.
        self.own = [self.project_id, token["user"]["id"], "default", "admin"]
        self.ids: list[str] = []
        #: The same by the name of the path's parameter.
        self.known: dict[str, list[str]] = {"key": ["k"]}
        self.token = dict(self.client.headers)
        await self._fill()

    async def _fill(self) -> None:
        for noun in ("user", "project", "group", "role"):
            body = {noun: {"name": f"a-{noun}"}}
            self._note(noun, (await self._post(f"/identity/v3/{noun}s", body))[noun]["id"])
        made = await self._post(
            "/image/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"}
        )
        self._note("image", made["id"])
        bytes_type = {"Content-Type": "application/octet-stream"}
        await self.client.put(
            f"/image/v2/images/{made['id']}/file", content=b"x" * 512, headers=bytes_type
        )
        net = (await self._post("/network/v2.0/networks", {"network": {"name": "n"}}))["network"]
        subnet = {"network_id": net["id"], "ip_version": 4, "cidr": "10.9.0.0/16"}
        sub = (await self._post("/network/v2.0/subnets", {"subnet": subnet}))["subnet"]
        port = (await self._post("/network/v2.0/ports", {"port": {"network_id": net["id"]}}))[
            "port"
        ]
        for noun, thing in (("network", net), ("subnet", sub), ("port", port)):
            self._note(noun, thing["id"])
        flavors = (await self.client.get("/compute/v2.1/flavors")).json()["flavors"]
        for name in ("one", "two"):
            body = {
                "name": name,
                "imageRef": made["id"],
                "flavorRef": flavors[0]["id"],
                "networks": [{"uuid": net["id"]}],
                "metadata": {"k": "v"},
            }
            server = (await self._post("/compute/v2.1/servers", {"server": body}))["server"]
            self._note("server", server["id"])
        self._note("flavor", flavors[-1]["id"])
        self.ids += ["k", "servers"]
        await self.cloud.cell.settle()

    def _note(self, noun: str, thing_id: str) -> None:
        self.ids.append(thing_id)
        self.known.setdefault(noun + "_id", []).append(thing_id)

    async def _post(self, path: str, body: Any) -> Any:
        answer = await self.client.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def ask(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        return self.run(self._ask(method, path, **kwargs))

    async def _ask(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        self.client.headers.update(self.token)
        answer = await self.client.request(method, path, **kwargs)
        await self.cloud.cell.settle()
        return answer

    def stop(self) -> None:
        self.run(self.client.aclose())
        self.run(self.cloud.stop())
        self.runner.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("cloud"))
    yield made
    made.stop()


def is_worded(answer: httpx2.Response, path: str) -> bool:
    """Tell whether an error is in the words of its service."""
    if answer.headers.get("content-type", "").startswith("text/html"):
        return path.startswith("/image") or answer.status_code == 404
    body = answer.json()
    if path.startswith("/network") and answer.status_code != 401:
        return set(body["NeutronError"]) == {"type", "message", "detail"}
    if path.startswith("/compute") and answer.status_code != 401:
        return len(body) == 1 and {"code", "message"} <= set(*body.values())
    if path.startswith("/identity") or answer.status_code == 401:
        return set(body["error"]) == {"code", "title", "message"}
    return {"code", "title", "message"} <= set(body)


def transport_of(
    case: Any, data: Any, ids: list[str], known: dict[str, list[str]]
) -> tuple[str, dict[str, Any]]:
    """Turn a generated case into a request; most of its parameters name what there is."""
    path = case.operation.path
    for name in case.path_parameters or {}:
        fitting = st.sampled_from(known.get(name, ids))
        other = st.sampled_from(ids) | NASTY | st.just(case.path_parameters[name])
        value = data.draw(fitting | fitting | other)
        path = path.replace("{" + name + "}", quote(str(value), safe="", errors="replace"))
    query = [
        (name, data.draw(NASTY) if data.draw(st.booleans()) else value)
        for name, value in (case.query or {}).items()
    ][:8]
    kwargs: dict[str, Any] = {"params": [(name, str(value)) for name, value in query]}
    version = data.draw(st.sampled_from(["", "compute 2.1", "compute latest", "compute 2.60"]))
    kwargs["headers"] = {"OpenStack-API-Version": version} if version else {}
    media = case.media_type
    if media is not None:
        kwargs["headers"]["Content-Type"] = OWN_MEDIA.get(case.operation.path, media)
        body = case.body
        if isinstance(body, bytes):
            kwargs["content"] = body
        elif media == "application/octet-stream":
            kwargs["content"] = str(body).encode(errors="replace")
        else:
            kwargs["content"] = json.dumps(body, default=str).encode()
    return path, kwargs


@pytest.mark.parametrize(
    "operation", [pytest.param(one, id=f"{one.method.upper()} {one.path}") for one in OPERATIONS]
)
def test_nothing_that_is_asked_breaks_the_cloud(running, operation):
    if (operation.method.upper(), operation.path) in SPARED:
        pytest.skip("it would end the session")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def ask(data):
        case = data.draw(operation.as_strategy())
        is_write = operation.method.upper() not in ("GET", "HEAD")
        spares_own = is_write and operation.path.startswith("/identity")
        ids = running.ids if spares_own else running.ids + running.own
        path, kwargs = transport_of(case, data, ids, running.known)
        with contextlib.suppress(httpx2.InvalidURL):
            answer = running.ask(operation.method.upper(), path, **kwargs)
            said = f"{path} {kwargs} -> {answer.status_code} {answer.text[:300]}"
            assert answer.status_code < 500, said
            if answer.status_code >= 400 and operation.method.upper() != "HEAD":
                assert is_worded(answer, path), said

    ask()


def test_afterwards_what_is_used_is_what_is_there(running):
    async def wrong():
        await running.cloud.cell.settle()
        return await running.cloud.db.run(quotas.recount_usage)

    assert running.run(wrong()) == 0


def test_afterwards_no_port_is_held_for_a_server_that_is_gone(running):
    def held(tx):
        there = {row.id for row in tx.list(servers) if row.deleted_at is None}
        return [
            row.id
            for row in tx.list(PORTS)
            if str(row.device_owner or "").startswith("compute:") and row.device_id not in there
        ]

    assert running.run(running.cloud.db.read(held)) == []
