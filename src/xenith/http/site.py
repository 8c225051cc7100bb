"""The ASGI application: every service on one port, each in its own voice.

A request goes: prefix → route → version → token → policy → body → handler → answer. Whatever is
raised on the way is worded by the service's style; nothing that a client sends is answered 5xx.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, unquote

import msgspec
import structlog

from xenith.core import errors
from xenith.core.limits import JSON_BODY_BYTES_MAX
from xenith.core.log import logger
from xenith.core.world import World
from xenith.http import faults, negotiation, validation
from xenith.http.call import Answer, Call, Stream
from xenith.http.endpoint import Endpoint, Service, Version, body_at, has_version
from xenith.http.policy import Principal
from xenith.http.router import Router

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_log = logger("http")
_REQUEST_ID = re.compile(r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_encode = msgspec.json.Encoder(order=None).encode


class Authenticator(Protocol):
    """Whoever knows what a token stands for."""

    async def authenticate(self, token: str) -> Principal:
        """Tell whom a token stands for.

        Raises:
            Unauthenticated: it is unknown, expired or revoked.
        """


class _Mounted:
    """A service with its router."""

    def __init__(self, service: Service[Any]) -> None:
        self.service = service
        self.router = Router()
        for endpoint in service.endpoints:
            assert endpoint.policy is None or endpoint.policy in service.policies, (
                f"{endpoint.name} names the rule {endpoint.policy}, which does not exist"
            )
            self.router.add(endpoint)


class Site:
    """All services of one cloud behind one address."""

    def __init__(
        self,
        services: Sequence[Service[Any]],
        *,
        world: World,
        authenticator: Authenticator,
        public_url: str = "",
        extra: Sequence[tuple[str, Callable[[], Awaitable[Answer]]]] = (),
    ) -> None:
        self.services = list(services)
        self._world = world
        self._authenticator = authenticator
        self._public_url = public_url.rstrip("/")
        self._mounted = {service.prefix.strip("/"): _Mounted(service) for service in services}
        #: Plain pages beside the services: ``/healthz``, ``/openapi.json``.
        self._extra = dict(extra)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        prefix, _, rest = path.lstrip("/").partition("/")
        mounted = self._mounted.get(prefix)
        if mounted is not None:
            await _Exchange(self, mounted, scope, receive, send).answer("/" + rest)
            return
        page = self._extra.get(path)
        if page is not None and scope["method"] in ("GET", "HEAD"):
            answer = await page()
            await _send_bytes(
                send,
                answer.status or 200,
                _body_bytes(answer.body),
                [(b"content-type", answer.media_type.encode())],
            )
            return
        fault = faults.Fault(404, "The resource could not be found.")
        body, media = faults.render_no_route(fault)
        await _send_bytes(send, 404, body, [(b"content-type", media.encode())])

    def site_url(self, scope: Scope, headers: dict[str, str]) -> str:
        """Tell where clients reach this site: as set, as a proxy says, or as they asked."""
        if self._public_url:
            return self._public_url
        scheme = headers.get("x-forwarded-proto", scope.get("scheme", "http"))
        host = headers.get("x-forwarded-host") or headers.get("host") or "127.0.0.1"
        return f"{scheme}://{host}{headers.get('x-forwarded-prefix', '').rstrip('/')}"

    async def principal(self, headers: dict[str, str]) -> Principal:
        """Tell who calls."""
        token = headers.get("x-auth-token")
        if not token:
            raise errors.Unauthenticated("The request you have made requires authentication.")
        return await self._authenticator.authenticate(token)

    def new_request_id(self) -> str:
        """Make the id that the answer, the log and the actions carry."""
        return self._world.ids.request_id()


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_headers",
        "_mounted",
        "_receive",
        "_request_id",
        "_scope",
        "_send",
        "_service",
        "_site",
        "_started",
        "_version",
    )

    def __init__(
        self, site: Site, mounted: _Mounted, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._site = site
        self._mounted = mounted
        self._service = mounted.service
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self._request_id = site.new_request_id()
        self._version: Version | None = None
        self._started = False

    async def answer(self, path: str) -> None:
        """Handle the request and send what comes of it, error or not."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self._request_id)
        asked = self._headers.get("x-openstack-request-id", "")
        if _REQUEST_ID.match(asked):
            structlog.contextvars.bind_contextvars(global_request_id=asked)
        try:
            await self._handle(path)
        except errors.XenithError as error:
            await self._send_error(error)
        except OverflowError:
            await self._send_error(errors.Invalid("A number is out of range."))
        except _ClientGone:
            return
        except Exception:  # noqa: BLE001 - the request edge
            _log.exception("request failed", path=path, method=self._scope["method"])
            await self._send_error(errors.Bug("An unexpected error; the log has its request id."))

    async def _handle(self, path: str) -> None:
        method = self._scope["method"]
        if "\x00" in path:
            raise errors.Invalid("The path contains a NUL character.")
        # Only what is a parameter is decoded; `%2F` in a name stays part of the name.
        raw = self._scope.get("raw_path") or quote(self._scope["path"]).encode()
        raw_path = "/" + raw.decode("latin-1").split("?", 1)[0].lstrip("/").partition("/")[2]
        match = self._mounted.router.find(raw_path)
        if match is not None and self._service.counts_last_slash and _has_empty_id(raw_path):
            match = None
        if match is None:
            await self._send_no_route(404, "The resource could not be found.")
            return
        is_head = method == "HEAD" and self._service.has_head and "HEAD" not in match.methods
        route = match.methods.get("GET" if is_head else method)
        if route is None:
            allowed = ", ".join(sorted(match.methods))
            await self._send_error(
                errors.XenithError(f"The method {method} is not allowed here."),
                code=405,
                headers=[(b"allow", allowed.encode())],
            )
            return
        self._version = negotiation.choose(self._service, self._headers)
        endpoints = [item for item in route.endpoints if has_version(item, self._version)]
        if not endpoints:
            await self._send_no_route(404, "The resource could not be found.")
            return
        principal: Principal | None = None
        if endpoints[0].policy is not None:
            principal = await self._site.principal(self._headers)
        parameters = {name: unquote(value) for name, value in match.parameters.items()}
        body = b""
        endpoint = endpoints[0]
        value: Any = None
        if route.has_actions:
            body = await self._read_body()
            self._check_media(endpoint)
            endpoint, value = _choose_action(endpoints, body)
        self._allow(endpoint, principal, parameters)
        query = self._query(endpoint)
        struct = body_at(endpoint, self._version)
        if not endpoint.is_stream and not route.has_actions:
            body = await self._read_body()
            if struct is not None:
                self._check_media(endpoint)
                value = validation.decode(body, struct)
        elif struct is not None and not endpoint.is_stream:
            value = validation.convert(value, struct)
        call: Call[Any] = Call(
            service=self._service.context,
            endpoint=endpoint,
            host=self._service,
            request_id=self._request_id,
            method=method,
            path=raw_path,
            parameters=parameters,
            query=query,
            headers=self._headers,
            site_url=self._site.site_url(self._scope, self._headers),
            version=self._version or (0, 0),
            body=value,
            _principal=principal,
            _chunks=self._read_chunks() if endpoint.is_stream else None,
        )
        await self._send_result(await endpoint.handler(call), endpoint, is_head=is_head)

    def _allow(
        self, endpoint: Endpoint, principal: Principal | None, parameters: dict[str, str]
    ) -> None:
        if endpoint.policy is None or principal is None:
            return
        if not self._service.policies[endpoint.policy](principal, parameters):
            raise errors.Forbidden(
                f"Policy doesn't allow {endpoint.policy} to be performed.", rule=endpoint.policy
            )

    def _query(self, endpoint: Endpoint) -> dict[str, list[str]]:
        text = self._scope["query_string"]
        if not text:
            return {}
        query: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, errors="strict")
        except (UnicodeDecodeError, ValueError) as error:
            raise errors.Invalid(f"The query string is malformed: {error}") from error
        for name, value in pairs:
            if "\x00" in name or "\x00" in value:
                raise errors.Invalid("The query string contains a NUL character.")
            query.setdefault(name, []).append(value)
        strict_from = endpoint.strict_query_from
        if (
            strict_from is not None
            and endpoint.query is not None
            and (self._version is None or self._version >= strict_from)
        ):
            for name in query:
                if name not in endpoint.query:
                    raise errors.Invalid(
                        f"Additional properties are not allowed ('{name}' was unexpected)"
                    )
        return query

    def _check_media(self, endpoint: Endpoint) -> None:
        media = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        if media and media not in endpoint.media_types:
            raise errors.Unsupported(f"Unsupported Content-Type {media[:100]}")

    async def _read_body(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in self._read_chunks():
            size += len(piece)
            if size > JSON_BODY_BYTES_MAX:
                raise errors.TooLarge(f"The body is larger than {JSON_BODY_BYTES_MAX} bytes.")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_chunks(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            piece = message.get("body", b"")
            if piece:
                yield piece
            if not message.get("more_body", False):
                return

    async def _send_result(self, result: Any, endpoint: Endpoint, *, is_head: bool) -> None:
        if isinstance(result, Stream):
            await self._send_stream(result)
            return
        status, headers, media = endpoint.status, self._base_headers(), b"application/json"
        if isinstance(result, Answer):
            status = result.status or status
            media = result.media_type.encode()
            headers += [
                (name.lower().encode(), _header_value(value))
                for name, value in result.headers.items()
            ]
            result = result.body
        body = _body_bytes(result)
        if body or status not in (202, 204):
            headers.append((b"content-type", media))
        self._started = True
        await _send_bytes(self._send, status, body, headers, is_head=is_head)

    async def _send_stream(self, stream: Stream) -> None:
        headers = self._base_headers()
        headers.append((b"content-type", stream.media_type.encode()))
        headers += [
            (name.lower().encode(), _header_value(value)) for name, value in stream.headers.items()
        ]
        if stream.size_bytes is not None:
            headers.append((b"content-length", str(stream.size_bytes).encode()))
        self._started = True
        await self._send(
            {"type": "http.response.start", "status": stream.status, "headers": headers}
        )
        async for piece in stream.chunks:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _send_error(
        self, error: errors.XenithError, *, code: int | None = None, headers: Headers | None = None
    ) -> None:
        if self._started:
            # Half an answer is out; only breaking the connection tells the client so.
            raise error
        style = self._service.style
        code = code or faults.code_of(error, style)
        sent = self._base_headers() + (headers or [])
        if code == 401:
            uri = self._site.site_url(self._scope, self._headers) + "/identity"
            sent.append((b"www-authenticate", f'Keystone uri="{uri}"'.encode("latin-1", "ignore")))
        if isinstance(error, errors.Unavailable):
            sent.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
        fault = faults.Fault(
            code,
            error.message,
            error.kind,
            self._request_id,
            accepts_html=self._accepts_html(),
            min_version=self._service.min_version,
            max_version=self._service.max_version,
        )
        body, media = faults.render(fault, style)
        sent.append((b"content-type", media.encode()))
        self._started = True
        await _send_bytes(self._send, code, body, sent, is_head=self._scope["method"] == "HEAD")

    async def _send_no_route(self, code: int, message: str) -> None:
        fault = faults.Fault(code, message, accepts_html=self._accepts_html())
        body, media = faults.render_no_route(fault)
        headers = self._base_headers()
        headers.append((b"content-type", media.encode()))
        await _send_bytes(self._send, code, body, headers)

    def _accepts_html(self) -> bool:
        accept = self._headers.get("accept", "*/*")
        return "application/json" not in accept

    def _base_headers(self) -> Headers:
        request_id = self._request_id.encode()
        headers: Headers = [(b"x-openstack-request-id", request_id)]
        if self._service.style == "compute":
            headers.append((b"x-compute-request-id", request_id))
        if self._service.style == "identity":
            headers.append((b"vary", b"X-Auth-Token"))
        if self._service.max_version is not None:
            version = self._version or self._service.min_version
            assert version is not None
            headers += negotiation.answer_headers(self._service, version)
        return headers


class _ClientGone(Exception):
    """The client hung up before its request was whole."""


def _choose_action(endpoints: Sequence[Endpoint], body: bytes) -> tuple[Endpoint, Any]:
    value = validation.decode_plain(body)
    if not isinstance(value, dict) or not value:
        raise errors.Invalid("Malformed request body: an action is an object with one key")
    # Extra keys beside the action are refused, as the schemas of all actions do.
    named = [item for item in endpoints if item.action in value]
    if len(value) != 1:
        raise errors.Invalid(
            "Malformed request body: there are several keys where one action is asked for"
        )
    if not named:
        raise errors.Invalid(f"There is no such action: {next(iter(value))[:100]}")
    return named[0], value[named[0].action]


def _has_empty_id(path: str) -> bool:
    """Tell whether a path names a thing by an empty id; ``/`` and ``/v2/`` do not."""
    return path.endswith("/") and path.count("/") > 2


def _header_value(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8")


def _body_bytes(body: Any) -> bytes:
    if body is None:
        return b""
    return body if isinstance(body, bytes) else _encode(body)


async def _send_bytes(
    send: Send, status: int, body: bytes, headers: Headers, *, is_head: bool = False
) -> None:
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head or status == 204 else body})
