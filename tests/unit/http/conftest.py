"""A site of one small service, asked through ASGI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from xenith.core.errors import Conflict, Unauthenticated
from xenith.core.world import World
from xenith.http import Answer, Call, Endpoint, Principal, Service, Site, Stream
from xenith.http.policy import admin, project_member, project_reader


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class ThingBody(msgspec.Struct, forbid_unknown_fields=True):
    thing: Thing


class LaterBody(msgspec.Struct, forbid_unknown_fields=True):
    thing: Thing
    note: str


class Reboot(msgspec.Struct, forbid_unknown_fields=True):
    type: str


async def show(call: Call[Any]) -> dict[str, Any]:
    return {"id": call["thing_id"], "version": list(call.version), "asked": dict(call.query)}


async def create(call: Call[Any]) -> Answer:
    return Answer({"name": call.body.thing.name}, headers={"Location": f"{call.url}/v1/things/1"})


async def start(call: Call[Any]) -> None:
    return None


async def reboot(call: Call[Any]) -> dict[str, str]:
    return {"rebooted": call.body.type}


async def upload(call: Call[Any]) -> dict[str, int]:
    return {"size": sum([len(piece) async for piece in call.chunks])}


async def download(call: Call[Any]) -> Stream:
    async def pieces() -> Any:
        yield b"ab"
        yield b"cd"

    return Stream(pieces(), size_bytes=4)


async def refuse(call: Call[Any]) -> None:
    raise Conflict("it is taken", kind="ThingInUse")


async def crash(call: Call[Any]) -> None:
    raise RuntimeError("a secret detail")


async def root(call: Call[Any]) -> dict[str, str]:
    return {"url": call.url}


def endpoints() -> tuple[Endpoint, ...]:
    return (
        Endpoint("GET", "/", root, None, "root"),
        Endpoint(
            "GET",
            "/v1/things/{thing_id}",
            show,
            "things:show",
            "show",
            query=frozenset({"limit"}),
            strict_query_from=(2, 75),
        ),
        Endpoint("GET", "/v1/things/all", root, "things:show", "all"),
        Endpoint(
            "POST",
            "/v1/things",
            create,
            "things:create",
            "create",
            202,
            body=(((0, 0), ThingBody), ((2, 50), LaterBody)),
        ),
        Endpoint(
            "POST",
            "/v1/things/{thing_id}/action",
            start,
            "things:create",
            "start",
            202,
            action="os-start",
        ),
        Endpoint(
            "POST",
            "/v1/things/{thing_id}/action",
            reboot,
            "things:create",
            "reboot",
            action="reboot",
            body=Reboot,
        ),
        Endpoint(
            "PUT",
            "/v1/things/{thing_id}/file",
            upload,
            "things:create",
            "upload",
            is_stream=True,
            media_types=("application/octet-stream",),
        ),
        Endpoint("GET", "/v1/things/{thing_id}/file", download, "things:show", "download"),
        Endpoint("DELETE", "/v1/things/{thing_id}", refuse, "things:delete", "delete", 204),
        Endpoint("GET", "/v1/crash", crash, "things:show", "crash"),
        Endpoint("GET", "/v1/late", root, "things:show", "late", min_version=(2, 60)),
    )


POLICIES = {
    "things:show": project_reader,
    "things:create": project_member,
    "things:delete": admin,
}


class Tokens:
    async def authenticate(self, token: str) -> Principal:
        roles = {
            "admin": {"admin", "member", "reader"},
            "member": {"member", "reader"},
            "reader": {"reader"},
        }.get(token)
        if roles is None:
            raise Unauthenticated("The token is not known.")
        return Principal("u", "user", "default", frozenset(roles), project_id="p")


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


class Client:
    def __init__(self, site: Site) -> None:
        self.site = site

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        token: str | None = "member",
        chunks: list[bytes] | None = None,
        **headers: str,
    ) -> Reply:
        path, _, query = path.partition("?")
        sent: list[Any] = []
        pieces = list(chunks if chunks is not None else [body])
        all_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            all_headers["x-auth-token"] = token

        async def receive() -> dict[str, Any]:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in all_headers.items()],
        }
        await self.site(scope, receive, send)
        return Reply(
            sent[0]["status"],
            [(name.decode(), value.decode()) for name, value in sent[0]["headers"]],
            b"".join(message.get("body", b"") for message in sent[1:]),
        )


def make_site(style: str) -> Site:
    service = Service(
        type="compute",
        name="nova",
        prefix="/compute",
        style=style,
        endpoints=endpoints(),
        policies=POLICIES,
        context=None,
        min_version=(2, 1),
        max_version=(2, 96),
        version_word="compute",
        legacy_version_header="X-OpenStack-Nova-API-Version",
    )
    return Site([service], world=World(), authenticator=Tokens())


@pytest.fixture
def client() -> Client:
    return Client(make_site("compute"))
