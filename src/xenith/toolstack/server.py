"""One host's XenAPI: sessions, dispatch, tasks, over JSON-RPC and XML-RPC.

A method that has its result at once is answered without a task of its own. Malformed calls are
answered with HTTP 500 and closed, as xapi does; failures of calls are answers.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from xenith.core.clock import iso_seconds
from xenith.core.errors import Unavailable
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.toolstack import tls
from xenith.toolstack.backends import Backend, BackendError
from xenith.toolstack.dates import dated
from xenith.toolstack.methods import Method, maybe
from xenith.toolstack.objects import Objects
from xenith.toolstack.operations import Operations
from xenith.toolstack.pool import Neighbourhood, Pool, PoolStorage
from xenith.toolstack.roles import ROLES, Account
from xenith.toolstack.storage.attached import Storage
from xenith.xapi import NULL, jsonrpc, xmlrpc
from xenith.xapi.faults import XapiFault
from xenith.xapi.wire import Reply, Request, ServerConnection, protocol_factory

if TYPE_CHECKING:
    from xenith.toolstack.rrd.sampler import Sampler

_log = logger("toolstack")

#: Seconds that events are gathered before an answer. Source: xapi's event.from batching.
EVENT_BATCH_S = 0.05
#: Sessions of one originator; the oldest goes. Source: xapi, 500 per originator.
SESSIONS_MAX = 500
#: Seconds that a session lives without a call. Source: xapi, a day.
SESSION_IDLE_MAX_S = 24 * 3600.0
#: Finished tasks kept. Source: xapi, 200.
TASKS_KEPT_MAX = 200
#: Tasks that clients made and never ended; xapi drops them after a day, we the oldest.
TASKS_PENDING_MAX = 1000

#: Takes a request that is no call: (host, request).
Transfer = Callable[["HostServer", Request], Awaitable[Reply]]
#: Writes an answer from a result, or from a fault.
_Write = Callable[[Any], Reply]

#: The session that the call that runs was made with.
_CALLER: ContextVar[str] = ContextVar("caller", default=NULL)
#: What a host answers that does not answer for its pool. Source: xapi, calls not forwarded.
_LOCAL = frozenset(
    (
        "session.slave_local_login_with_password",
        "session.local_logout",
        "pool.emergency_transition_to_master",
        "pool.emergency_reset_master",
        "host.emergency_ha_disable",
        "host.emergency_disable_tls_verification",
        "host.shutdown_agent",
        "system.listMethods",
    )
)
_PAGE = b"<html><body><h1>HTTP 500 internal server error</h1></body></html>"
_JSON_HEADERS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With",
}


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
        methods: Mapping[str, Method],
        transfers: Mapping[tuple[str, str], Transfer],
        event_batch_s: float = EVENT_BATCH_S,
        flush: Callable[[], None] = lambda: None,
        accounts: Mapping[str, Account] | None = None,
    ) -> None:
        self.world = world
        #: Whom this host shares its database with; a pool of its own until it joins one.
        self.pool = Pool(objects, world.ids, name=name)
        #: What acts on this host; ``backend`` acts on all of the pool.
        self.engine = backend
        #: The reference of this host's record.
        self.ref = NULL
        self.is_up = True
        self.fleet: Neighbourhood | None = None
        self.name = name
        self.methods = methods
        self.event_batch_s = event_batch_s
        #: Brings what was changed to the disk; done before a call is answered.
        self.flush = flush
        self.tasks = TaskOwner(f"host {name}", world.clock)
        #: The SRs that are attached here; ``storage`` are those of all of the pool.
        self.own_storage = Storage()
        #: What is measured here over time; None until someone asks.
        self.sampler: Sampler | None = None
        self.address = ""
        self.identity: tls.Identity | None = None
        #: Where the certificate is kept; None keeps it nowhere.
        self.identity_path: Path | None = None
        self._tls: ssl.SSLContext | None = None
        self._accounts = {"root": Account(password, "pool-admin"), **(accounts or {})}
        #: What each session that asked by the old protocol has been told up to.
        self.subscriptions: dict[str, Any] = {}
        #: The place of each session's role among the roles.
        self._ranks: dict[str, int] = {}
        self._transfers = transfers
        self._server: asyncio.Server | None = None
        # Ordered, so that they are broken in the same order in each run of a simulation.
        self._connections: dict[ServerConnection, None] = {}
        self._finished_tasks: list[str] = []
        self._running: set[asyncio.Task[None]] = set()
        #: When each session was last used.
        self._last_used_s: dict[str, float] = {}

    # -- the pool

    @property
    def objects(self) -> Objects:
        """The database."""
        return self.pool.objects

    @property
    def operations(self) -> Operations:
        """What is being done in the pool."""
        return self.pool.operations

    @property
    def unheard(self) -> set[str]:
        """VMs whose domain changed by itself while an operation ran."""
        return self.pool.unheard

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Bytes that each VM that runs, or is about to, was given."""
        return self.pool.memory_bytes

    @property
    def backend(self) -> Backend:
        """What acts for the whole pool."""
        return self.pool.backend

    @property
    def storage(self) -> PoolStorage:
        """The SRs that are attached to any host of the pool."""
        return self.pool.storage

    def enter(self, pool: Pool, ref: str, *, is_coordinator: bool) -> None:
        """Become a host of a pool; sessions that were begun before it end."""
        self.forget_sessions()
        self.pool, self.ref = pool, ref
        pool.members[ref] = self
        if is_coordinator:
            pool.coordinator = self

    def forget_sessions(self) -> None:
        """End all sessions that were begun here."""
        for session in list(self._last_used_s):
            self._forget_session(session)

    def end_sessions_of(self, user: str) -> None:
        """End the sessions of a user."""
        for session, record in list(self.objects.all("session").items()):
            if record["auth_user_name"] == user and session in self._last_used_s:
                self._forget_session(session)

    # -- life

    async def listen(self, host: str, port: int) -> int:
        """Take calls at an address; give the port.

        Raises:
            Unavailable: the port is taken.
        """
        loop = asyncio.get_running_loop()
        factory = protocol_factory(self._answer, self._connections, self._streams)
        try:
            self._server = await loop.create_server(factory, host, port, backlog=128, ssl=self._tls)
        except OSError as error:
            raise Unavailable(f"host {self.name}: port {port} cannot be had: {error}") from error
        bound: int = self._server.sockets[0].getsockname()[1]
        self.address = f"{host}:{bound}"
        # One that lost its power may be on again.
        self.is_up = True
        return bound

    async def stop(self) -> None:
        """Take no more calls and break those in flight."""
        self.die()
        await self.tasks.stop()
        if self.sampler is not None:
            await self.sampler.keep()
        await self.engine.stop()

    def die(self) -> None:
        """Stop answering at once and leave off what runs, as a host that lost its power."""
        self.is_up = False
        own = self.objects.find("host", self.ref)
        if own is not None and self.pool.coordinator is not self:
            # xapi's coordinator notices when a host's heartbeat stays away.
            self.objects.update("host_metrics", own["metrics"], live=False)
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.abort()
        for task in tuple(self._running):
            task.cancel()

    # -- calls

    def call(self, name: str, params: list[Any]) -> Any:
        """Run a method; the first parameter is the session, where it takes one.

        Gives the result, or a coroutine of it.

        Raises:
            XapiFault: it failed.
        """
        found = self.methods.get(name)
        is_task = False
        if found is None:
            found = self.methods.get(name.removeprefix("Async."))
            is_task = True
            if found is None or not found.is_async:
                raise XapiFault("MESSAGE_METHOD_UNKNOWN", name)
        coordinator = self.pool.coordinator
        if coordinator is not self and found.name not in _LOCAL:
            raise XapiFault("HOST_IS_SLAVE", self.pool.coordinator_address())
        if not found.is_open:
            self._check_session(params)
            if self._ranks[params[0]] < found.rank:
                having = ", ".join(ROLES[found.rank :])
                raise XapiFault(
                    "RBAC_PERMISSION_DENIED",
                    found.name.lower(),
                    f"the session's role is not among those that may: {having}",
                )
            _CALLER.set(params[0])
        given = params if found.is_open else params[1:]
        if not found.least <= len(given) <= len(found.kinds):
            expected = len(found.kinds) + (0 if found.is_open else 1)
            raise XapiFault("MESSAGE_PARAMETER_COUNT_MISMATCH", name, expected, len(params))
        return self._begin_task(found, given) if is_task else found.run(self, given)

    # -- sessions

    def login(self, user: str, password: str, originator: str) -> str:
        """Begin a session and give its reference.

        Raises:
            XapiFault: SESSION_AUTHENTICATION_FAILED.
        """
        if not self.knows(user, password):
            # Which of the two was wrong is nobody's business.
            raise XapiFault("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        return self.begin_session(user, originator)

    @property
    def url(self) -> str:
        """Where this host takes calls."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{self.address}"

    @property
    def pin(self) -> str:
        """What clients know this host by, where it speaks TLS."""
        return "" if self.identity is None else self.identity.pin

    def identify(self, identity: tls.Identity) -> None:
        """Speak TLS as the owner of a certificate, from the next connection on."""
        if self._tls is None:
            self._tls = tls.context(identity)
        else:
            tls.load(self._tls, identity)
        self.identity = identity
        tls.keep(self.identity_path, identity)

    def begin_session(self, user: str, originator: str) -> str:
        """Begin a session of a user who is known to be that, and give its reference."""
        now = self.world.clock.monotonic()
        for ref, used in list(self._last_used_s.items()):
            if now - used > SESSION_IDLE_MAX_S:
                self._forget_session(ref)
        sessions = self.objects.all("session")
        own = [ref for ref, record in sessions.items() if record["originator"] == originator]
        for ref in own[: max(0, len(own) - SESSIONS_MAX + 1)]:
            self._forget_session(ref)
        made = self.objects.create(
            "session",
            this_host=self.ref,
            pool=self.objects.only("pool"),
            originator=originator,
            auth_user_name=user,
            last_active=self.now(),
            is_local_superuser=user == "root",
        )
        self._last_used_s[made] = now
        self._ranks[made] = self.rank_of_user(user)
        return made

    def end_session(self, ref: str) -> None:
        """End a session.

        Raises:
            XapiFault: SESSION_INVALID, there is no such session.
        """
        self._check_session([ref])
        self._forget_session(ref)

    def has_session(self, ref: str) -> bool:
        """Tell whether a session holds, and count it as used."""
        now = self.world.clock.monotonic()
        used = self._last_used_s.get(ref)
        if used is None:
            return False
        if now - used > SESSION_IDLE_MAX_S:
            self._forget_session(ref)
            return False
        self._last_used_s[ref] = now
        return True

    def rank_of(self, session: str) -> int:
        """Give the place among the roles of a session that holds."""
        return self._ranks[session]

    def rank_of_user(self, user: str) -> int:
        """Give the place among the roles of a user that there is."""
        return ROLES.index(self._accounts[user].role)

    def knows(self, user: str, password: str) -> bool:
        """Tell whether these are a user and its password."""
        account = self._accounts.get(user)
        # Compared in any case, so that the time tells nobody who has an account.
        known = self._accounts["root"] if account is None else account
        is_good = hmac.compare_digest(_bytes(password), _bytes(known.password))
        return account is not None and is_good

    def session(self) -> str:
        """Give the session that the call that runs was made with."""
        return _CALLER.get()

    def caller(self) -> str:
        """Tell the user whose session the call that runs was made with."""
        ref = _CALLER.get()
        record = self.objects.find("session", ref)
        if record is None:
            raise XapiFault("SESSION_INVALID", ref)
        return str(record["auth_user_name"])

    def is_admin(self, ref: str) -> bool:
        """Tell whether a session that holds may do everything."""
        return self._ranks.get(ref) == len(ROLES) - 1

    def set_password(self, user: str, old: str, new: str) -> None:
        """Change a user's password, until the process ends.

        Raises:
            XapiFault: SESSION_AUTHENTICATION_FAILED, CHANGE_PASSWORD_REJECTED.
        """
        if not self.knows(user, old):
            raise XapiFault("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        if not new:
            raise XapiFault("CHANGE_PASSWORD_REJECTED", "a password has characters")
        self._accounts[user] = self._accounts[user]._replace(password=new)

    def _check_session(self, params: list[Any]) -> None:
        ref = params[0] if params else ""
        if not isinstance(ref, str) or not self.has_session(ref):
            raise XapiFault("SESSION_INVALID", ref)

    def _forget_session(self, ref: str) -> None:
        del self._last_used_s[ref]
        del self._ranks[ref]
        self.subscriptions.pop(ref, None)
        if self.objects.find("session", ref) is not None:
            self.objects.delete("session", ref)

    def now(self) -> str:
        """Tell the time as XenAPI writes it: ``20260101T00:00:00Z``."""
        return iso_seconds(self.world.clock.now()).replace("-", "")

    # -- tasks

    def make_task(self, label: str, description: str, *, allowed: list[str]) -> str:
        """Make a task's record; of those that nobody ended, the oldest goes."""
        tasks = self.objects.all("task")
        if len(tasks) >= TASKS_KEPT_MAX + TASKS_PENDING_MAX:
            pending = (ref for ref, record in tasks.items() if record["status"] == "pending")
            self.objects.delete("task", next(pending))
        return self.objects.create(
            "task",
            name_label=label,
            name_description=description,
            created=self.now(),
            resident_on=self.ref,
            allowed_operations=allowed,
        )

    def _begin_task(self, found: Method, given: list[Any]) -> str:
        ref = self.make_task(f"Async.{found.name}", "", allowed=[])
        task = self.tasks.start(f"task {found.name}", self._run_task(ref, found, given))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return ref

    async def _run_task(self, ref: str, found: Method, given: list[Any]) -> None:
        try:
            result = await maybe(found.run(self, given))
        except XapiFault as fault:
            self.end_task(ref, error=fault.description)
        except BackendError as error:
            self.end_task(ref, error=[error.code, *error.params])
        except Exception:
            self.end_task(ref, error=["INTERNAL_ERROR", found.name])
            raise
        else:
            self.end_task(ref, result=xmlrpc.fragment(result))

    def end_task(
        self,
        ref: str,
        *,
        status: str = "success",
        result: str = "",
        error: list[str] | None = None,
    ) -> None:
        """Write how a task ended; the oldest ones that have ended are forgotten."""
        if self.objects.find("task", ref) is None:
            return
        self.objects.update(
            "task",
            ref,
            status=status if error is None else "failure",
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

    def _streams(self, method: str, path: str) -> bool:
        return (method, _plain(path)) in self._transfers

    def _answer(self, request: Request) -> Reply | Awaitable[Reply]:
        path = _plain(request.path)
        transfer = self._transfers.get((request.method, path))
        if transfer is not None:
            return self._transfer(transfer, request)
        if request.method == "POST":
            # Any other path that is posted to takes XML-RPC, as clients expect.
            return self._jsonrpc(request) if path == "/jsonrpc" else self._xmlrpc(request)
        if request.method == "OPTIONS" and path == "/jsonrpc":
            return Reply(200, headers=_JSON_HEADERS)
        return Reply(404, b"<html><body><h1>404 Not Found</h1></body></html>", "text/html")

    def _jsonrpc(self, request: Request) -> Reply | Awaitable[Reply]:
        try:
            envelope = jsonrpc.decode_call(request.body)
        except msgspec.DecodeError:
            return Reply(500, _PAGE, "text/html", is_closing=True)

        def write(result: Any) -> Reply:
            if isinstance(result, XapiFault):
                return Reply(200, jsonrpc.encode_fault(envelope, result), headers=_JSON_HEADERS)
            return Reply(200, jsonrpc.encode_result(envelope, result), headers=_JSON_HEADERS)

        return self._run(request, envelope.method, envelope.params, write)

    def _xmlrpc(self, request: Request) -> Reply | Awaitable[Reply]:
        try:
            name, params = xmlrpc.decode_call(request.body)
        except ValueError:
            return Reply(500, _PAGE, "text/html", is_closing=True)

        def write(result: Any) -> Reply:
            if isinstance(result, XapiFault):
                return Reply(200, xmlrpc.encode_fault(result), "text/xml")
            is_wrapped = name != "system.listMethods"
            body = xmlrpc.encode_result(dated(name, result), is_wrapped=is_wrapped)
            return Reply(200, body, "text/xml")

        return self._run(request, name, params, write)

    def _run(
        self, request: Request, name: str, params: list[Any], write: _Write
    ) -> Reply | Awaitable[Reply]:
        try:
            result = self.call(name, params)
            if inspect.iscoroutine(result):
                request.is_wait = self.methods[name].is_wait
                return self._wait(result, name, write)
        except Exception as error:  # noqa: BLE001 - the request edge
            result = _fault(error, name)
        return self._written(result, name, write)

    def _written(self, result: Any, name: str, write: _Write) -> Reply:
        try:
            self.flush()
            return write("" if result is None else result)
        except Exception as error:  # noqa: BLE001 - the request edge
            return write(_fault(error, name))

    async def _wait(self, running: Awaitable[Any], name: str, write: _Write) -> Reply:
        try:
            result = await running
        except Exception as error:  # noqa: BLE001 - the request edge
            result = _fault(error, name)
        return self._written(result, name, write)

    async def _transfer(self, transfer: Transfer, request: Request) -> Reply:
        try:
            reply = await transfer(self, request)
        except Exception as error:  # noqa: BLE001 - the request edge
            _fault(error, request.path)
            reply = Reply(500, _PAGE, "text/html", is_closing=True)
        self.flush()
        return reply


def _fault(error: Exception, name: str) -> XapiFault:
    if isinstance(error, XapiFault):
        return error
    if isinstance(error, BackendError):
        return XapiFault(error.code, *error.params)
    # Its text is left out of the answer and the log: values that a client sent may be secrets.
    _log.error("call failed", method=name, error=type(error).__name__, at=_place(error))
    return XapiFault("INTERNAL_ERROR", name)


def _bytes(text: str) -> bytes:
    # JSON can write half of a pair of surrogates, which UTF-8 proper has no bytes for.
    return text.encode("utf-8", "surrogatepass")


def _place(error: Exception) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"


def _plain(path: str) -> str:
    return path if path == "/" else path.rstrip("/")
