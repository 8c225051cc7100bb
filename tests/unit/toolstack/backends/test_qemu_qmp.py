"""QMP against a server on a real socket that says what a test tells it to."""

import asyncio
import json

import pytest

from xenith.toolstack.backends.qemu.qmp import LINE_BYTES_MAX, Qmp, QmpError

GREETING = {"QMP": {"version": {}, "capabilities": []}}


@pytest.fixture
async def serve(tmp_path):
    """A function that serves QMP with a function from command to lines, and gives the path."""
    servers = []

    async def start(answer, *, greeting=GREETING):
        # Far deeper than the 108 bytes that a socket's path may have.
        directory = tmp_path / ("deep-" * 30)
        directory.mkdir()

        async def talk(reader, writer):
            writer.write(json.dumps(greeting).encode() + b"\r\n")
            while line := await reader.readline():
                command = json.loads(line)
                if command["execute"] == "qmp_capabilities":
                    writer.write(json.dumps({"return": {}, "id": command["id"]}).encode() + b"\n")
                    continue
                for said in answer(command):
                    if said is None:
                        writer.close()
                        return
                    writer.write(said if isinstance(said, bytes) else json.dumps(said).encode())
                    writer.write(b"\r\n")

        short = tmp_path / "s"
        servers.append(await asyncio.start_unix_server(talk, short))
        short.rename(directory / "qmp.sock")
        return directory / "qmp.sock"

    yield start
    for server in servers:
        server.close()


@pytest.fixture
async def connect(serve):
    made = []

    async def start(answer, **rest):
        events = []
        qmp = Qmp(lambda name, data: events.append((name, data)))
        made.append(qmp)
        await qmp.connect(await serve(answer, **rest), timeout_s=0.2)
        return qmp, events

    yield start
    for qmp in made:
        await qmp.close()


async def test_answers_find_their_commands_in_any_order(connect):
    held = []

    def answer(command):
        held.append(command)
        if len(held) < 2:
            return []
        return [{"return": held_.get("arguments"), "id": held_["id"]} for held_ in reversed(held)]

    qmp, _ = await connect(answer)
    both = asyncio.gather(qmp.command("a", {"n": 1}), qmp.command("b", {"n": 2}))
    assert await both == [{"n": 1}, {"n": 2}]


async def test_events_between_answers_are_passed_on(connect):
    def answer(command):
        yield {"event": "STOP", "timestamp": {}}
        yield {"return": {}, "id": command["id"]}
        yield {"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}

    qmp, events = await connect(answer)
    await qmp.command("stop")
    await qmp.command("cont")  # answers and events come in one row, so those before are here
    assert events[:2] == [("STOP", {}), ("SHUTDOWN", {"reason": "guest-shutdown"})]


async def test_a_refusal_carries_qemus_words(connect):
    qmp, _ = await connect(lambda c: [{"error": {"class": "X", "desc": "No!"}, "id": c["id"]}])
    with pytest.raises(QmpError, match="No!"):
        await qmp.command("cont")


async def test_silence_ends_at_the_deadline(connect):
    qmp, _ = await connect(lambda _: [])
    with pytest.raises(QmpError, match="no answer"):
        await qmp.command("cont", timeout_s=0.01)
    assert qmp.is_connected


@pytest.mark.parametrize("last", [None, b"not json", b"x" * (LINE_BYTES_MAX + 100_000)])
async def test_a_connection_that_ends_or_talks_nonsense_fails_what_waits(connect, last):
    qmp, _ = await connect(lambda _: [last])
    with pytest.raises(QmpError, match="closed"):
        await qmp.command("cont", timeout_s=5)
    await qmp.drain()
    assert not qmp.is_connected
    with pytest.raises(QmpError, match="not connected"):
        await qmp.command("cont")


async def test_what_does_not_greet_as_qmp_is_left(connect):
    with pytest.raises(QmpError, match="does not speak QMP"):
        await connect(lambda _: [], greeting={"hello": 1})


async def test_nobody_there_is_an_error_of_ours(tmp_path):
    with pytest.raises(QmpError, match="no QMP"):
        await Qmp(lambda *_: None).connect(tmp_path / "qmp.sock")
