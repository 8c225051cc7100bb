"""A link is a session of two runs: what is of another, or of nobody, is refused and counted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from xenith.bus import CREDITS, MemoryBus, Priority
from xenith.cells import link as module
from xenith.cells.keys import CellKey
from xenith.cells.link import MESSAGES_BYTES_MAX, Link, topic_of
from xenith.cells.messages import Heads, Hello, Ping, Pong, Reply, TopologyNews
from xenith.cells.topology import Topology
from xenith.core.errors import Unavailable
from xenith.core.ids import CellId
from xenith.dev.cells import entry

KEYS = {name: CellKey.derive(name.encode()) for name in ("up", "down", "stranger")}
TOPOLOGY = Topology(
    region="test",
    version=1,
    cells=(
        entry(CellId("up"), "up", KEYS["up"]),
        entry(CellId("down"), "down", KEYS["down"], [CellId("up")]),
    ),
)


class End:
    """One end of a link and what it has heard."""

    def __init__(self, simulation, bus, own, peer, *, kinds=(Ping, Pong, Reply, Heads)):
        self.heard = []
        self.opened = []
        self.failing = None
        self.link = Link(
            simulation.world(own, skew_s=0.0, drift=0.0),
            bus,
            key=KEYS[own],
            own=CellId(own),
            peer=CellId(peer),
            topology=lambda: TOPOLOGY,
            hello=self._hello,
            on_open=self._on_open,
            handlers=dict.fromkeys(kinds, self._hear),
        )

    async def _hello(self):
        return Hello()

    async def _on_open(self, hello):
        if self.failing is not None:
            raise self.failing
        self.opened.append(hello)

    async def _hear(self, group):
        if self.failing is not None:
            raise self.failing
        self.heard += group

    @property
    def counts(self):
        return self.link.counts


def pair(nodes, work, **options):
    """Run ``work(simulation, bus, up, down)`` on both ends of an open link."""

    async def scenario(simulation):
        bus = nodes.Air(simulation.world("air", skew_s=0.0, drift=0.0).clock)
        up = End(simulation, bus, "up", "down", **options)
        down = End(simulation, bus, "down", "up", **options)
        await up.link.start()
        await down.link.start()
        await asyncio.sleep(2)
        assert (up.link.is_open, down.link.is_open) == (True, True)
        try:
            await work(simulation, bus, up, down)
        finally:
            await up.link.stop()
            await down.link.stop()

    nodes.play(scenario)


async def put(nodes, bus, data, *, to="down", of="up"):
    """Have a broker hand over any bytes."""
    await MemoryBus.publish(bus, topic_of(of, to), data, priority=Priority.INTENT)
    await asyncio.sleep(0.1)


def in_session(nodes, of, to, body, *, key="up", **fields):
    values = {
        "sender": "up",
        "receiver": "down",
        "session": of.link._session,
        "to_session": to.link._session,
        "body": body,
        **fields,
    }
    return nodes.frame(KEYS[key], **values)


# -- the session


def test_both_ends_greet_and_then_speak(nodes):
    async def work(_simulation, _bus, up, down):
        assert up.link.version == down.link.version == 1
        assert (len(up.opened), len(down.opened)) == (1, 1)
        assert up.link.post(Ping(1))
        assert down.link.post(Pong(2))
        await asyncio.sleep(0.1)
        assert (down.heard, up.heard) == ([Ping(1)], [Pong(2)])

    pair(nodes, work)


def test_nothing_is_sent_before_both_have_heard_each_other(nodes):
    async def scenario(simulation):
        bus = nodes.Air(simulation.world("air").clock)
        up = End(simulation, bus, "up", "down")
        await up.link.start()
        await asyncio.sleep(10)
        assert up.link.post(Ping(1)) is False
        assert (up.link.is_open, up.link.version) == (False, 0)
        assert 8 <= bus.count <= 12, "a hello each second, to whoever comes"
        down = End(simulation, bus, "down", "up")
        await down.link.start()
        await asyncio.sleep(2)
        assert up.link.is_open
        assert down.link.is_open
        await up.link.stop()
        await down.link.stop()

    nodes.play(scenario)


@pytest.mark.parametrize("who", ["up", "down"])
def test_either_side_may_start_anew(nodes, who):
    async def work(simulation, bus, up, down):
        dies, stays = (up, down) if who == "up" else (down, up)
        await dies.link.stop()
        stays.link.post(Ping(1))
        await asyncio.sleep(3)
        own, peer = (who, "down" if who == "up" else "up")
        again = End(simulation, bus, own, peer)
        await again.link.start()
        await asyncio.sleep(3)
        assert again.link.is_open
        assert stays.link.is_open
        assert len(stays.opened) == 2
        assert again.heard == [], "what was meant for the earlier run is not heard by this one"
        assert again.counts["old_session"] >= 1
        assert stays.link.post(Ping(7))
        await asyncio.sleep(0.1)
        assert again.heard == [Ping(7)]
        await again.link.stop()

    pair(nodes, work)


def test_a_frame_of_an_earlier_session_is_refused(nodes):
    async def work(_simulation, bus, up, down):
        for fields in (
            {"session": "earlier"},
            {"to_session": "earlier"},
            {"session": "", "to_session": "x"},
        ):
            await put(nodes, bus, in_session(nodes, up, down, [nodes.builtins(Ping(1))], **fields))
        assert down.heard == []
        assert down.counts["old_session"] == 3
        assert down.link.is_open

    pair(nodes, work)


def test_an_old_hello_that_comes_again_does_not_end_the_link_for_good(nodes):
    async def work(_simulation, bus, up, down):
        hello = nodes.builtins(Hello(heard="earlier", is_open=True))
        data = in_session(nodes, up, down, [hello], session="earlier", to_session="")
        for _ in range(3):
            await put(nodes, bus, data)
        await asyncio.sleep(2)
        assert up.link.post(Ping(1))
        assert down.link.post(Pong(1))
        await asyncio.sleep(0.1)
        assert (down.heard, up.heard) == ([Ping(1)], [Pong(1)])

    pair(nodes, work)


def test_a_dead_process_that_is_heard_late_does_not_keep_the_session(nodes):
    async def work(_simulation, bus, up, down):
        # It had heard this run of its peer before it died, so its word is as good as a live one's.
        hello = nodes.builtins(Hello(heard=up.link._session, is_open=True))
        data = nodes.frame(
            KEYS["down"],
            sender="down",
            receiver="up",
            session="dead",
            to_session="",
            body=[hello],
        )
        await put(nodes, bus, data, to="up", of="down")
        assert up.link._peer_session == "dead"
        down.link.post(Ping(1))
        await asyncio.sleep(3)
        assert up.link.post(Ping(2))
        assert down.link.post(Ping(3))
        await asyncio.sleep(0.1)
        assert (down.heard, up.heard) == ([Ping(2)], [Ping(3)])

    pair(nodes, work)


def test_what_waits_of_a_session_that_has_ended_is_not_handled_in_the_next(nodes):
    async def work(simulation, bus, up, down):
        held = asyncio.Event()

        async def slow(group):
            await held.wait()
            down.heard += group

        down.link._handlers[Heads] = slow
        await put(nodes, bus, in_session(nodes, up, down, [nodes.builtins(Heads({}))]))
        await put(nodes, bus, in_session(nodes, up, down, [nodes.builtins(Heads({}))]))
        await up.link.stop()
        again = End(simulation, bus, "up", "down")
        await again.link.start()
        await asyncio.sleep(0.5)
        held.set()
        await asyncio.sleep(3)
        assert again.link.is_open
        assert down.heard == [Heads({})], "and not the second"
        assert again.link.post(Ping(3))
        await asyncio.sleep(0.1)
        assert down.heard == [Heads({}), Ping(3)]
        await again.link.stop()

    pair(nodes, work)


def test_when_beginning_fails_it_is_begun_again(nodes):
    async def scenario(simulation):
        bus = nodes.Air(simulation.world("air").clock)
        up, down = End(simulation, bus, "up", "down"), End(simulation, bus, "down", "up")
        up.failing = Unavailable("the database is away")
        await up.link.start()
        await down.link.start()
        await asyncio.sleep(5)
        assert up.link.is_open is False
        up.failing = None
        await asyncio.sleep(3)
        assert (up.link.is_open, len(up.opened)) == (True, 1)
        assert up.link.post(Ping(1))
        await asyncio.sleep(0.1)
        assert down.heard == [Ping(1)]
        await up.link.stop()
        await down.link.stop()

    nodes.play(scenario)


# -- versions


@pytest.mark.parametrize(
    ("ours", "theirs", "spoken"),
    [((1, 1), (1, 2), 1), ((1, 2), (2, 3), 2), ((2, 3), (1, 2), 2), ((1, 3), (1, 3), 3)],
)
def test_the_newest_version_that_both_speak_is_spoken(nodes, monkeypatch, ours, theirs, spoken):
    async def scenario(simulation):
        monkeypatch.setattr(module, "VERSION_LEAST", ours[0])
        monkeypatch.setattr(module, "VERSION_MOST", ours[1])
        bus = nodes.Air(simulation.world("air").clock)
        up = End(simulation, bus, "up", "down")
        await up.link.start()
        await asyncio.sleep(0.1)
        hello = Hello(least=theirs[0], most=theirs[1], heard=up.link._session)
        data = nodes.frame(
            KEYS["down"],
            sender="down",
            receiver="up",
            session="s",
            to_session="",
            body=[nodes.builtins(hello)],
        )
        await put(nodes, bus, data, to="up", of="down")
        assert (up.link.is_open, up.link.version) == (True, spoken)
        await up.link.stop()

    nodes.play(scenario)


@pytest.mark.parametrize("theirs", [(2, 3), (0, 0), (5, 4)])
def test_versions_that_do_not_meet_are_refused_with_a_counter_and_tried_on(nodes, theirs):
    async def work(_simulation, bus, up, down):
        hello = nodes.builtins(Hello(least=theirs[0], most=theirs[1], heard=down.link._session))
        data = in_session(nodes, up, down, [hello], session="upgraded", to_session="")
        await put(nodes, bus, data)
        assert down.counts["refused_version"] == 1
        assert down.link.is_open is False, "who spoke before is another program now"
        # The older program is put back.
        await asyncio.sleep(3)
        assert down.link.is_open

    pair(nodes, work)


# -- messages


def test_unknown_messages_are_counted_and_the_others_of_their_frame_are_heard(nodes):
    async def work(_simulation, bus, up, down):
        newer = {"type": "gossip", "rumour": 1}
        body = [nodes.builtins(Ping(1)), newer, nodes.builtins(Ping(2))]
        await put(nodes, bus, in_session(nodes, up, down, body))
        assert down.heard == [Ping(1), Ping(2)]
        assert down.counts["refused_unknown_message"] == 1

    pair(nodes, work)


def test_unknown_fields_pass(nodes):
    async def work(_simulation, bus, up, down):
        body = [{**nodes.builtins(Ping(1)), "mood": "good"}]
        await put(nodes, bus, in_session(nodes, up, down, body))
        assert down.heard == [Ping(1)]

    pair(nodes, work)


def test_a_kind_that_this_side_never_hears_is_refused(nodes):
    async def work(_simulation, _bus, up, down):
        up.link.post(TopologyNews(b"x"))
        await asyncio.sleep(0.1)
        assert down.counts["refused_unexpected_message"] == 1
        assert down.link.is_open

    pair(nodes, work)


def test_a_hello_within_a_session_and_anything_else_outside_of_one_are_refused(nodes):
    async def work(_simulation, bus, up, down):
        await put(nodes, bus, in_session(nodes, up, down, [nodes.builtins(Hello())]))
        body = [nodes.builtins(Ping(1))]
        await put(nodes, bus, in_session(nodes, up, down, body, to_session=""))
        assert down.counts["refused_out_of_session"] == 2
        assert down.heard == []

    pair(nodes, work)


def test_a_message_that_is_too_long_is_not_sent_and_is_counted(nodes):
    async def work(_simulation, _bus, up, down):
        assert up.link.post(Reply(id="r", body=b"x" * MESSAGES_BYTES_MAX)) is False
        assert up.counts["too_long"] == 1
        assert up.link.post(Reply(id="r", body=b"x" * (MESSAGES_BYTES_MAX - 100)))
        assert up.link.post(Reply(id="r2", body=b"x" * (MESSAGES_BYTES_MAX - 100)))
        await asyncio.sleep(0.2)
        assert [reply.id for reply in down.heard] == ["r", "r2"]

    pair(nodes, work)


def test_messages_of_a_moment_go_in_one_frame(nodes):
    async def work(_simulation, bus, up, down):
        before = bus.count
        for number in range(500):
            assert up.link.post(Ping(number))
        await asyncio.sleep(0.1)
        assert len(down.heard) == 500
        assert [ping.number for ping in down.heard] == list(range(500))
        assert bus.count - before == 1

    pair(nodes, work)


def test_buffers_are_bounded_and_what_does_not_fit_is_counted(nodes):
    async def work(_simulation, _bus, up, down):
        limit = CREDITS[Priority.STATISTICS]
        posted = [up.link.post(Heads({})) for _ in range(limit + 10)]
        assert posted.count(True) == limit
        assert up.counts["no_credit"] == 10
        # Each class has its own: what is urgent still goes.
        assert up.link.post(Ping(1))
        await asyncio.sleep(0.1)
        assert Ping(1) in down.heard

    pair(nodes, work)


def test_what_comes_faster_than_it_is_handled_is_dropped_and_counted(nodes):
    async def work(_simulation, bus, up, down):
        held = asyncio.Event()

        async def slow(group):
            await held.wait()
            down.heard += group

        down.link._handlers[Heads] = slow
        limit = CREDITS[Priority.STATISTICS]
        body = [nodes.builtins(Heads({}))] * (limit * 2)
        await put(nodes, bus, in_session(nodes, up, down, [nodes.builtins(Heads({}))]))
        await put(nodes, bus, in_session(nodes, up, down, body))
        assert down.counts["overflow"] == limit
        held.set()
        await asyncio.sleep(0.1)
        assert len(down.heard) == limit + 1

    pair(nodes, work)


def test_a_handler_that_fails_does_not_end_the_link(nodes):
    async def work(_simulation, _bus, up, down):
        for error in (RuntimeError("a mistake"), Unavailable("away")):
            down.failing = error
            up.link.post(Ping(1))
            await asyncio.sleep(0.1)
        down.failing = None
        assert down.counts["failed"] == 2
        up.link.post(Ping(2))
        await asyncio.sleep(0.1)
        assert down.heard == [Ping(2)]

    pair(nodes, work)


def test_a_bus_that_does_not_take_a_frame_does_not_stop_the_link(nodes):
    async def work(_simulation, bus, up, down):
        publish = bus.publish

        async def fail(*_args, **_options):
            raise Unavailable("no credit")

        bus.publish = fail
        up.link.post(Ping(1))
        await asyncio.sleep(0.1)
        assert up.counts["unsent"] == 1
        bus.publish = publish
        up.link.post(Ping(2))
        await asyncio.sleep(0.1)
        assert down.heard == [Ping(2)]

    pair(nodes, work)


# -- bytes


def test_whatever_bytes_come_the_link_goes_on(nodes):
    async def work(_simulation, bus, up, down):
        good = in_session(nodes, up, down, [nodes.builtins(Ping(1))])
        wrong = {
            "truncated": good[:-1],
            "not_a_frame": b"GET / HTTP/1.1\r\n\r\n",
            "newer_format": good[:4] + b"\x02" + good[5:],
            "bad_signature": good[:-1] + bytes((good[-1] ^ 1,)),
            "too_long": good + b"x",
            "not_for_us": in_session(nodes, up, down, [], receiver="other"),
            "unknown_sender": in_session(nodes, up, down, [], sender="stranger", key="stranger"),
        }
        for reason, data in wrong.items():
            await put(nodes, bus, data)
            assert down.counts["refused_" + reason] == 1, reason
        assert down.heard == []
        await put(nodes, bus, good)
        assert down.heard == [Ping(1)]

    pair(nodes, work)


def test_a_cell_of_the_topology_that_is_not_the_neighbour_is_refused(nodes):
    async def work(_simulation, bus, up, down):
        data = in_session(nodes, up, down, [], sender="down", key="down")
        await put(nodes, bus, data)
        assert down.counts["refused_not_the_neighbour"] == 1

    pair(nodes, work)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x91\xc1", b"\x93\x01", b"\xdd\xff"])
def test_a_body_that_is_no_list_of_messages_is_refused(nodes, body):
    async def work(_simulation, bus, up, down):
        from xenith.cells.frames import Header, encode

        header = Header(
            sender=CellId("up"),
            receiver=CellId("down"),
            session=up.link._session,
            to_session=down.link._session,
            sequence=1,
            kind="messages",
            sent_at=0.0,
        )
        await put(nodes, bus, encode(KEYS["up"], header, body))
        assert down.counts["refused_not_messages"] + down.counts["refused_unknown_message"] == 1
        up.link.post(Ping(1))
        await asyncio.sleep(0.1)
        assert down.heard == [Ping(1)]

    pair(nodes, work)


def test_messages_nested_without_end_are_refused(nodes):
    async def work(_simulation, bus, up, down):
        from xenith.cells.frames import Header, encode

        header = Header(
            sender=CellId("up"),
            receiver=CellId("down"),
            session=up.link._session,
            to_session=down.link._session,
            sequence=1,
            kind="messages",
            sent_at=0.0,
        )
        deep = b"\x91" * 100_000 + b"\x01"
        await put(nodes, bus, encode(KEYS["up"], header, deep))
        nested = b"\x82\xa4type\xa4ping\xa6number" + deep
        await put(nodes, bus, encode(KEYS["up"], header, b"\x91" + nested))
        refused = [name for name in down.counts if name.startswith("refused_")]
        assert refused
        up.link.post(Ping(1))
        await asyncio.sleep(1.5)
        assert down.heard == [Ping(1)]

    pair(nodes, work)


def test_a_priority_stands_for_each_kind_of_message():
    from xenith.cells.messages import PRIORITIES, Message

    assert set(PRIORITIES) == set(Message.__args__)


def test_how_a_peer_says_what_it_is_survives_msgpack():
    hello = Hello(places={"a": (1, 2)}, topology=3)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(hello), type=Hello)
    assert SimpleNamespace(**msgspec.to_builtins(again)).topology == 3
