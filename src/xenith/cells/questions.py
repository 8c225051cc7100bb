"""Questions to one cell below: asked, passed on and answered in memory, within a deadline.

For what changes nothing that a row must remember, or may simply be asked again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from xenith.cells.messages import Ask, Reply
from xenith.cells.rebuilding import rebuild
from xenith.cells.status import status_of
from xenith.core import errors
from xenith.core.errors import Unavailable, XenithError
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner

if TYPE_CHECKING:
    from xenith.cells.node import Node

_log = logger("cells.questions")

#: Questions that one node passes on or waits for at a time.
QUESTIONS_MAX = 1000
#: Bytes of an answer in one message: two of them and what else waits have room in a frame.
PART_BYTES = 384 * 1024
#: Parts of an answer: 18 MiB, what a host tells of some 45,000 disks.
PARTS_MAX = 48
#: Seconds that any question is worked on, whatever its asker says.
TIMEOUT_MAX_S = 300.0


class Asked:
    """A question that waits here for its answer."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._parts: dict[int, Reply] = {}

    def hear(self, reply: Reply) -> None:
        """Take a part of the answer; the last to come gives the whole, and an error ends it."""
        if self.reply.done() or not _is_part(reply):
            return
        if reply.error:
            self.reply.set_result(reply)
            return
        self._parts.setdefault(reply.part, reply)
        if len(self._parts) >= reply.parts:
            body = b"".join(self._parts[at].body for at in sorted(self._parts))
            self.reply.set_result(msgspec.structs.replace(reply, body=body))


class Passed:
    """A question that was passed on, until when, and which parts of its answer have gone up."""

    def __init__(self, parent: CellId, until: float) -> None:
        self.parent = parent
        self.until = until
        self.parts: set[int] = set()


class Questions:
    """What this node asks, passes on, and answers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: dict[str, Asked] = {}
        self._passed: dict[str, Passed] = {}
        self._tasks = TaskOwner("questions", node.world.clock)

    async def stop(self) -> None:
        """Let go of what is being answered."""
        await self._tasks.stop()

    async def ask(
        self, target: CellId, method: str, params: dict[str, Any], *, timeout_s: float
    ) -> Any:
        """Ask a cell and wait for what it says.

        Raises:
            Unavailable: no answer came in time.
            XenithError: what the cell answered.
        """
        if target == self._node.cell_id:
            return await self._answer(method, params)
        question = Ask(
            id=self._node.world.ids.hex(),
            target=target,
            method=method,
            body=msgspec.msgpack.encode(params),
            timeout_s=timeout_s,
        )
        asked = self._asked[question.id] = Asked()
        deadline = asyncio.ensure_future(self._node.world.clock.sleep(timeout_s))
        waited: set[asyncio.Future[Any]] = {asked.reply, deadline}
        try:
            if not self._pass_on(question):
                raise Unavailable(f"cell {target} cannot be reached now")
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not asked.reply.done():
                raise Unavailable(f"cell {target} did not answer within {timeout_s:g} s")
            return _result(asked.reply.result())
        finally:
            deadline.cancel()
            del self._asked[question.id]

    # -- from parents

    def take(self, parent: CellId, question: Ask) -> None:
        """Answer a parent's question, or pass it on."""
        timeout_s = question.timeout_s
        # A number that is none fails every comparison, this one too.
        timeout_s = timeout_s if 0.0 <= timeout_s <= TIMEOUT_MAX_S else TIMEOUT_MAX_S
        if question.target == self._node.cell_id:
            if self._tasks.task_count >= QUESTIONS_MAX:
                busy = Reply(id=question.id, error="Unavailable", message="the cell is too busy")
                self._reply(parent, busy)
                return
            self._tasks.start("answer", self._answer_to(parent, question, timeout_s))
            return
        now = self._node.world.clock.monotonic()
        for each in [each for each, passed in self._passed.items() if passed.until < now]:
            del self._passed[each]
        if len(self._passed) >= QUESTIONS_MAX or not self._pass_on(question):
            self._reply(parent, Reply(id=question.id, error="Unavailable", message="no way down"))
            return
        self._passed[question.id] = Passed(parent, now + timeout_s)

    # -- from children

    def hear(self, reply: Reply) -> None:
        """Give an answer, or a part of one, to who asked."""
        asked = self._asked.get(reply.id)
        if asked is not None:
            asked.hear(reply)
            return
        passed = self._passed.get(reply.id)
        if passed is None or not _is_part(reply):
            return
        passed.parts.add(reply.part)
        if reply.error or len(passed.parts) >= reply.parts:
            del self._passed[reply.id]
        self._reply(passed.parent, reply)

    def _pass_on(self, question: Ask) -> bool:
        hops = self._node.topology.next_hops(self._node.cell_id, CellId(question.target))
        # A link to a cell that has died is open until it is back: those that live come first.
        return any(
            self._node.children[hop].link.post(question)
            for hop in sorted(hops, key=self._node.chooser.is_dead)
            if hop in self._node.children
        )

    def _reply(self, parent: CellId, reply: Reply) -> None:
        link = self._node.parents.get(parent)
        if link is not None and not link.link.post(reply):
            # There may be no room for what is long, and for a word there is.
            link.link.post(
                Reply(id=reply.id, error="Unavailable", message="the answer is too long")
            )

    async def _answer(self, method: str, params: dict[str, Any]) -> Any:
        match method:
            case "status":
                return msgspec.to_builtins(await status_of(self._node))
            case "rebuild":
                cell_id = CellId(params["cell"])
                found = await rebuild(self._node, cell_id, timeout_s=params["timeout_s"])
                return msgspec.to_builtins(found)
        if self._node.executor is None:
            raise errors.NotFound(f"cell {self._node.cell_id} has no hosts")
        return await self._node.executor.answer(method, params)

    async def _answer_to(self, parent: CellId, question: Ask, timeout_s: float) -> None:
        try:
            answer = await self._answer_in_time(question, timeout_s)
            replies = _split(Reply(id=question.id, body=msgspec.msgpack.encode(answer)))
        except msgspec.MsgspecError as error:
            replies = [Reply(id=question.id, error="Invalid", message=f"not a question: {error}")]
        except XenithError as error:
            replies = [Reply(id=question.id, error=type(error).__name__, message=error.message)]
        except Exception:  # noqa: BLE001 - the message edge
            _log.exception("question failed", cell=self._node.cell_id, method=question.method)
            replies = [
                Reply(id=question.id, error="Unavailable", message="the cell could not answer")
            ]
        for reply in replies:
            self._reply(parent, reply)

    async def _answer_in_time(self, question: Ask, timeout_s: float) -> Any:
        params = msgspec.msgpack.decode(question.body)
        answer = asyncio.ensure_future(self._answer(question.method, params))
        deadline = asyncio.ensure_future(self._node.world.clock.sleep(timeout_s))
        waited: set[asyncio.Future[Any]] = {answer, deadline}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Unavailable("nobody waits for the answer any more")
            return answer.result()
        finally:
            deadline.cancel()
            answer.cancel()


def _split(reply: Reply) -> list[Reply]:
    """Cut an answer into what fits a message each.

    Raises:
        Unavailable: it is longer than all parts that an answer may have.
    """
    starts = range(0, len(reply.body), PART_BYTES)
    if len(starts) > PARTS_MAX:
        raise Unavailable(f"the answer is too long: {len(reply.body)} bytes")
    return [
        msgspec.structs.replace(
            reply, body=reply.body[start : start + PART_BYTES], part=part, parts=len(starts)
        )
        for part, start in enumerate(starts)
    ]


def _is_part(reply: Reply) -> bool:
    """Tell whether a part's number is one that an answer may have."""
    return 0 <= reply.part < reply.parts <= PARTS_MAX


def _result(reply: Reply) -> Any:
    if not reply.error:
        try:
            return msgspec.msgpack.decode(reply.body)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the answer cannot be read: {error}") from error
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, XenithError):
        raise kind(reply.message)
    raise Unavailable(reply.message)
