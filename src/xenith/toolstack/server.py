"""One host's XenAPI: sessions, dispatch, tasks, over JSON-RPC and XML-RPC.

Malformed calls are answered with HTTP 500 and closed, as xapi does; failures of calls are answers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Callable
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import msgspec

from xenith.core.clock import iso_seconds
from xenith.core.errors import Unavailable
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.toolstack.backends import Backend, BackendError
from xenith.toolstack.methods import Method, generate, maybe
from xenith.toolstack.objects import Objects
from xenith.xapi import NULL, jsonrpc, xmlrpc
from xenith.xapi.faults import XapiFault
from xenith.xapi.wire import Reply, Request, ServerConnection, protocol_factory

_log = logger("toolstack")

#: Seconds that events are gathered before an answer. Source: xapi's event.from batching.
EVENT_BATCH_S = 0.05
#: Sessions of one originator; the oldest goes. Source: xapi, 500 per originator.
SESSIONS_MAX = 500
#: Finished tasks kept. Source: xapi, 200.
TASKS_KEPT_MAX = 200

#: The call that only waits; it ends when its client hangs up, as all others do not.
_WAIT = "event.from"

_PAGE = b"<html><body><h1>HTTP 500 internal server error</h1></body></html>"


@lru_cache(maxsize=1)
def all_methods() -> dict[str, Method]:
    """Give the whole table; importing the classes fills it."""
    import xenith.toolstack.classes  # noqa: F401, PLC0415 - each module enters its methods

    return generate()


class HostServer:
    """One host that speaks XenAPI, a pool of its own."""

    def __init__(
        self,
        world: World,
        objects: Objects,
        backend: Backend,
        *,
        name: str,
        password: str,
        event_batch_s: float = EVENT_BATCH_S,
    ) -> None:
        self.world = world
        self.objects = objects
        self.backend = backend
        self.name = name
        self.event_batch_s = event_batch_s
        self.tasks = TaskOwner(f"host {name}", world.clock)
        #: Operations that run, by object's reference: what else may be asked meanwhile.
        self.busy: dict[str, dict[str, str]] = {}
        #: VMs whose domain changed by itself while an operation ran.
        self.unheard: set[str] = set()
        self.memory_used_bytes = 0
        self.address = ""
        self._password = password
        self._methods = all_methods()
        self._server: asyncio.Server | None = None
        self._connections: set[ServerConnection] = set()
        self._finished_tasks: list[str] = []
        self._handlers: dict[tuple[str, str], Callable[[Request], Any]] = {
            ("POST", "/jsonrpc"): self._jsonrpc,
            ("PUT", "/import_raw_vdi"): self._import_raw_vdi,
        }

    # -- life

    async def listen(self, host: str, port: int) -> int:
        """Take calls at an address; give the port.

        Raises:
            Unavailable: the port is taken.
        """
        loop = asyncio.get_running_loop()
        factory = protocol_factory(self._answer, self._connections, _streams)
        try:
            self._server = await loop.create_server(factory, host, port, backlog=128)
        except OSError as error:
            raise Unavailable(f"host {self.name}: port {port} cannot be had: {error}") from error
        bound: int = self._server.sockets[0].getsockname()[1]
        self.address = f"{host}:{bound}"
        return bound

    async def stop(self) -> None:
        """Take no more calls and break those in flight."""
        self.die()
        await self.tasks.stop()
        await self.backend.stop()

    def die(self) -> None:
        """Stop answering at once, as a host that lost its power."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.abort()

    # -- calls

    async def call(self, name: str, params: list[Any]) -> Any:
        """Run a method; the first parameter is the session, where it takes one.

        Raises:
            XapiFault: it failed.
        """
        is_async = name.startswith("Async.")
        found = self._methods.get(name.removeprefix("Async."))
        if found is None or (is_async and not found.is_async):
            raise XapiFault("MESSAGE_METHOD_UNKNOWN", name)
        if not found.is_open:
            self._check_session(params)
        given = params if found.is_open else params[1:]
        if not found.least <= len(given) <= found.most:
            expected = found.most + (0 if found.is_open else 1)
            raise XapiFault("MESSAGE_PARAMETER_COUNT_MISMATCH", name, expected, len(params))
        if is_async:
            return self._begin_task(found, given)
        return await self.run(found, given)

    async def run(self, found: Method, given: list[Any]) -> Any:
        """Run a method's function; what goes wrong inside becomes a fault."""
        try:
            result = await maybe(found.function(self, *given))
        except BackendError as error:
            raise XapiFault(error.code, *error.params) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            # Parameters of a wrong type end here; the datamodel's word for it.
            # It may be a fault of ours as well, so it is not passed over in silence.
            # Its text is: values that a client sent may be secrets.
            _log.warning("call failed", method=found.name, error=type(error).__name__)
            raise XapiFault("FIELD_TYPE_ERROR", found.name) from error
        return "" if result is None else result

    def login(self, user: str, password: str, originator: str) -> str:
        """Begin a session and give its reference.

        Raises:
            XapiFault: SESSION_AUTHENTICATION_FAILED.
        """
        is_good = isinstance(password, str) and hmac.compare_digest(
            password.encode(), self._password.encode()
        )
        if user != "root" or not is_good:
            raise XapiFault("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        sessions = self.objects.all("session")
        own = [ref for ref, record in sessions.items() if record["originator"] == originator]
        for ref in own[: max(0, len(own) - SESSIONS_MAX + 1)]:
            self.objects.delete("session", ref)
        return self.objects.create(
            "session",
            this_host=self.objects.only("host"),
            pool=self.objects.only("pool"),
            originator=originator,
            auth_user_name=user,
            last_active=self.now(),
        )

    def now(self) -> str:
        """Tell the time as XenAPI writes it: ``20260101T00:00:00Z``."""
        return iso_seconds(self.world.clock.now()).replace("-", "")

    def _check_session(self, params: list[Any]) -> None:
        ref = params[0] if params else ""
        if not isinstance(ref, str) or self.objects.find("session", ref) is None:
            raise XapiFault("SESSION_INVALID", ref)

    # -- tasks

    def _begin_task(self, found: Method, given: list[Any]) -> str:
        ref = self.objects.create(
            "task",
            name_label=f"Async.{found.name}",
            created=self.now(),
            resident_on=self.objects.only("host"),
            allowed_operations=["cancel"],
        )
        self.tasks.start(f"task {found.name}", self._run_task(ref, found, given))
        return ref

    async def _run_task(self, ref: str, found: Method, given: list[Any]) -> None:
        try:
            result = await self.run(found, given)
        except XapiFault as fault:
            self.end_task(ref, error=fault.description)
        except Exception:
            self.end_task(ref, error=["INTERNAL_ERROR", found.name])
            raise
        else:
            self.end_task(ref, result=xmlrpc.fragment(result if isinstance(result, str) else ""))

    def end_task(self, ref: str, *, result: str = "", error: list[str] | None = None) -> None:
        """Write how a task ended; the oldest ones that have ended are forgotten."""
        if self.objects.find("task", ref) is None:
            return
        self.objects.update(
            "task",
            ref,
            status="success" if error is None else "failure",
            progress=1.0,
            finished=self.now(),
            result=result,
            error_info=error or [],
            allowed_operations=["destroy"],
        )
        self._finished_tasks.append(ref)
        while len(self._finished_tasks) > TASKS_KEPT_MAX:
            oldest = self._finished_tasks.pop(0)
            if self.objects.find("task", oldest) is not None:
                self.objects.delete("task", oldest)

    # -- HTTP

    async def _answer(self, request: Request) -> Reply:
        path = request.path if request.path == "/" else request.path.rstrip("/")
        handler = self._handlers.get((request.method, path))
        if handler is None:
            if request.method == "OPTIONS" and path == "/jsonrpc":
                return Reply(200, headers=_JSON_HEADERS)
            # Any other path that is posted to takes XML-RPC, as clients expect.
            if request.method != "POST":
                return Reply(404, b"<html><body><h1>404 Not Found</h1></body></html>", "text/html")
            handler = self._xmlrpc
        try:
            reply: Reply = await handler(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the request edge
            _log.warning("request failed", path=path, error=repr(error))
            return Reply(500, _PAGE, "text/html", is_closing=True)
        return reply

    async def _jsonrpc(self, request: Request) -> Reply:
        try:
            envelope = jsonrpc.decode_call(request.body)
        except (msgspec.DecodeError, RecursionError):
            return Reply(500, _PAGE, "text/html", is_closing=True)
        request.is_wait = envelope.method == _WAIT
        try:
            result = await self.call(envelope.method, envelope.params)
        except XapiFault as fault:
            return Reply(200, jsonrpc.encode_fault(envelope, fault), headers=_JSON_HEADERS)
        return Reply(200, jsonrpc.encode_result(envelope, result), headers=_JSON_HEADERS)

    async def _xmlrpc(self, request: Request) -> Reply:
        try:
            name, params = xmlrpc.decode_call(request.body)
        except ValueError:
            return Reply(500, _PAGE, "text/html", is_closing=True)
        request.is_wait = name == _WAIT
        try:
            result = await self.call(name, params)
        except XapiFault as fault:
            return Reply(200, xmlrpc.encode_fault(fault), "text/xml")
        is_wrapped = name != "system.listMethods"
        return Reply(200, xmlrpc.encode_result(result, is_wrapped=is_wrapped), "text/xml")

    async def _import_raw_vdi(self, request: Request) -> Reply:
        from xenith.toolstack.classes.vdi import import_raw  # noqa: PLC0415 - it imports us

        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        assert request.chunks is not None
        if not self._may_transfer(request, query):
            return Reply(
                401,
                b"<html><body><h1>401 Unauthorized</h1></body></html>",
                "text/html",
                headers={"www-authenticate": 'Basic realm="XenAPI"'},
                is_closing=True,
            )
        task = query.get("task_id", NULL)
        try:
            await import_raw(self, query, request.chunks)
        except (XapiFault, BackendError) as error:
            description = (
                error.description if isinstance(error, XapiFault) else [error.code, *error.params]
            )
            self.end_task(task, error=description)
            return Reply(500, msgspec.json.encode(description), is_closing=True)
        except ConnectionResetError:
            self.end_task(task, error=["VDI_IO_ERROR", "the sender hung up"])
            return Reply(400, is_closing=True)
        self.end_task(task)
        return Reply(200, media_type="text/plain")

    def _may_transfer(self, request: Request, query: dict[str, str]) -> bool:
        session = query.get("session_id") or _cookie(request.headers.get("cookie", ""))
        if session:
            return self.objects.find("session", session) is not None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return user == "root" and hmac.compare_digest(password.encode(), self._password.encode())


_JSON_HEADERS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With",
}


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get("session_id")
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _streams(method: str, path: str) -> bool:
    return method == "PUT" and path.rstrip("/") == "/import_raw_vdi"
