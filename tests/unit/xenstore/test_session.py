"""What a guest may send: anything. What it costs: what its quotas say."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenith.xenstore import session
from xenith.xenstore.wire import HEADER, PAYLOAD_BYTES_MAX, Frame, Op

HOME = "/local/domain/3"


async def test_a_guest_is_answered(served):
    guest = await served.guest()
    assert await guest.ask(Op.WRITE, b"data/x\0value") == b"OK\0"
    assert served.tool.read(f"{HOME}/data/x") == b"value"
    assert await guest.ask(Op.READ, b"/tool\0") == b"EACCES\0"


async def test_too_long_a_payload_ends_the_connection_and_says_why(served):
    guest = await served.guest()
    guest.writer.write(HEADER.pack(Op.WRITE, 1, 0, PAYLOAD_BYTES_MAX + 1))
    assert await guest.reader.read() == b""
    assert await served.ended[0] == "a payload of 4097 bytes is announced"
    # What it left is gone, and it may come back.
    assert served.store.domains[3].memory_bytes < 1000
    assert await (await served.guest()).ask(Op.READ, b"data\0") == b""


async def test_the_longest_payload_is_taken_in_the_smallest_pieces(served):
    guest = await served.guest()
    frame = Frame(Op.WRITE, 9, 0, b"data/x\0".ljust(1900, b"v")).encode()
    for byte in frame:
        guest.writer.write(bytes([byte]))
        await guest.writer.drain()
    assert (await guest.receive())[:2] == (Op.WRITE, 9)


async def test_half_a_frame_and_then_the_end(served):
    guest = await served.guest()
    guest.writer.write(Frame(Op.READ, 1, 0, b"data\0").encode()[:-2])
    guest.writer.close()
    assert await served.ended[0] == "it ended in the middle of a frame"


async def test_a_frame_that_never_ends_is_given_up(served, monkeypatch):
    monkeypatch.setattr(session, "FRAME_TIMEOUT_S", 0.05)
    guest = await served.guest()
    guest.writer.write(b"\1")
    assert await guest.reader.read() == b""
    assert await served.ended[0] == "a frame was begun and not ended"


async def test_silence_costs_nothing_and_is_no_fault(served, monkeypatch):
    monkeypatch.setattr(session, "FRAME_TIMEOUT_S", 0.01)
    guest = await served.guest()
    await asyncio.sleep(0.05)
    assert await guest.ask(Op.READ, b"data\0") == b""


async def test_a_flood_is_answered_no_faster_than_its_share(served_in_still_time):
    served = served_in_still_time
    guest = await served.guest()
    count = int(session.REQUESTS_AT_ONCE) + 50
    reading = asyncio.create_task(guest.reader.read(1 << 20))
    for number in range(count):
        guest.writer.write(Frame(Op.MKDIR, number, 0, b"data/%d\0" % number).encode())
    for _ in range(2000):
        await asyncio.sleep(0)
    assert served.store.domains[3].node_count == session.REQUESTS_AT_ONCE + 1
    await served.clock.advance(1.0)
    while served.store.domains[3].node_count < count + 1:
        await asyncio.sleep(0)
        await served.clock.advance(0.01)
    reading.cancel()


async def test_one_that_takes_no_answers_is_not_listened_to(served_in_still_time):
    served = served_in_still_time
    served.tool.write(f"{HOME}/data/big", b"x" * 4000)
    guest = await served.guest()
    guest.reader._transport.pause_reading()
    sent = Frame(Op.READ, 1, 0, b"data/big\0").encode()
    for _ in range(190):
        guest.writer.write(sent)
    for _ in range(5000):
        await asyncio.sleep(0)
    connection = served.store.domains[3].connection
    # Some are in the kernel's buffers; what we hold is bounded.
    assert connection.outstanding_count <= served.store.quotas.outstanding_count
    assert served.store.domains[3].memory_bytes < 200_000
    guest.reader._transport.resume_reading()
    for _ in range(190):
        assert (await guest.receive()).payload == b"x" * 4000


async def test_events_that_are_not_taken_are_joined_and_bounded(served):
    guest = await served.guest()
    assert await guest.ask(Op.WATCH, b"data\0t\0") == b"OK\0"
    guest.reader._transport.pause_reading()
    domain = served.store.domains[3]
    for number in range(10_000):
        path = f"{HOME}/data/{number}-{'x' * 1500}"
        served.tool.write(path, b"")
        served.tool.write(path, b"again")
        served.tool.rm(path)
    waiting = _session_of(domain)._waiting
    assert len(waiting) == len(set(waiting)), "what was not taken yet is told once"
    assert 100_000 < sum(len(frame.payload) for frame in waiting) < domain.memory_bytes
    assert domain.memory_bytes < served.store.quotas.memory_bytes
    # The host writes on, however full the guest is.
    served.tool.write(f"{HOME}/data/last", b"x" * 2000)
    guest.writer.close()
    await asyncio.wait(served.ended)


def _session_of(domain):
    return domain.connection.on_close.__self__


async def test_a_second_connection_takes_the_place_of_the_first(served):
    first = await served.guest()
    assert await first.ask(Op.WATCH, b"data\0t\0") == b"OK\0"
    second = await served.guest()
    assert await second.ask(Op.READ, b"data\0") == b""
    assert served.store.domains[3].connection.watch_count == 0
    assert await served.ended[0] == ""


async def test_a_released_domain_is_let_go(served):
    guest = await served.guest()
    assert await guest.ask(Op.TRANSACTION_START, b"\0") == b"1\0"
    served.store.release(3)
    await asyncio.wait(served.ended)
    assert served.store.watching == {}


async def test_one_that_takes_nothing_is_let_go_all_the_same(served):
    served.tool.write(f"{HOME}/data/big", b"x" * 4000)
    guest = await served.guest()
    guest.reader._transport.pause_reading()
    for _ in range(190):
        guest.writer.write(Frame(Op.READ, 1, 0, b"data/big\0").encode())
    for _ in range(5000):
        await asyncio.sleep(0)
    assert served.store.domains[3].connection.outstanding_count > 0
    served.store.release(3)
    async with asyncio.timeout(60):
        assert await served.ended[0] == ""


async def test_what_was_sent_before_a_release_is_not_done_after_it(served_in_still_time):
    served = served_in_still_time
    guest = await served.guest()
    for number in range(int(session.REQUESTS_AT_ONCE) + 1):
        guest.writer.write(Frame(Op.WATCH, 1, 0, b"data\0%d\0" % number).encode())
    reading = asyncio.create_task(guest.reader.read(1 << 20))
    for _ in range(2000):
        await asyncio.sleep(0)
    served.store.release(3)
    await served.clock.advance(10.0)
    async with asyncio.timeout(60):
        assert await served.ended[0] == ""
    assert served.store.watching == {}
    reading.cancel()


FRAMES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda op, transaction, payload: Frame(op, 1, transaction, payload).encode(),
        st.integers(0, 30) | st.just(0xFFFF),
        st.integers(0, 3),
        st.binary(max_size=60)
        | st.sampled_from([b"data/x\0", b"data/x\0t\0", b"\0", b"T\0", b"data/x\0n3\0b4\0"]),
    ),
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(FRAMES, max_size=30))
async def test_no_bytes_break_the_store(served, frames):
    before = served.tool.directory("/").children
    guest = await served.guest()
    for frame in frames:
        guest.writer.write(frame)
    guest.writer.write_eof()
    async with asyncio.timeout(60):
        await guest.reader.read()
        await served.ended[-1]
    guest.writer.close()
    assert served.tool.directory("/").children == before
    assert served.tool.directory("/local/domain").children == ("3",)
    assert served.store.check_whole() == []
    assert served.store.watching == {}
    served.tool.rm(f"{HOME}/data")
    served.tool.mkdir(f"{HOME}/data")
    served.tool.set_perms(f"{HOME}/data", [served.tool.get_perms(HOME)[1]._replace(access=0)])
    assert served.store.domains[3].memory_bytes < 200


@pytest.mark.parametrize("seed", range(3))
async def test_noise_ends_a_connection_and_nothing_else(served, seed):
    noise = random.Random(seed)
    for _ in range(20):
        guest = await served.guest()
        guest.writer.write(noise.randbytes(noise.randrange(1, 20_000)))
        guest.writer.write_eof()
        async with asyncio.timeout(60):
            await guest.reader.read()
            await served.ended[-1]
        guest.writer.close()
    assert served.store.watching == {}
    assert served.store.domains[3].connection is None
