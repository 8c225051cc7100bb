"""Senders that ask before they send, or do not know how much: both are answered before they do.

Xen Orchestra's client is one of each. Source: xen-api 4.7, putResource.
"""

import asyncio
import socket
import ssl
from urllib.parse import urlencode

import pytest
import uvloop

from xenith.core.units import MIB
from xenith.toolstack import tls
from xenith.xapi.wire import STREAM_WAITING_BYTES_MAX, Reply, protocol_factory

#: What that client announces where it knows no length.
PEBIBYTE = 1 << 50
DATA = b"a" * 3 * MIB + bytes(MIB) + b"z" * 4 * MIB


class Disk:
    """A disk with bytes on a directory, and those who send to it over sockets of their own."""

    def __init__(self, host):
        self.host = host

    async def prepare(self, path):
        own = (await self.host.call("host.get_all"))[0]
        config = {"location": str(path)}
        sr = await self.host.call("SR.create", own, config, 0, "d", "", "file", "user", False, {})
        record = {"SR": sr, "virtual_size": len(DATA), "name_label": "disk"}
        self.ref = await self.host.call("VDI.create", record)

    async def send(self, data, length, **query):
        """Begin to send; give the connection when the answer's head has come, and the head."""
        query = {"vdi": self.ref, "session_id": self.host.session._reference, **query}
        at, port = self.host.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(at, int(port))
        head = f"PUT /import_raw_vdi/?{urlencode(query)} HTTP/1.1\r\nhost: x\r\n"
        writer.write(f"{head}content-length: {length}\r\n\r\n".encode() + data)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        return writer, int(answer.split()[1])

    async def read(self):
        given = self.host.session.export_raw_vdi(self.ref, timeout_s=10)
        return b"".join([piece async for piece in given])

    async def ended(self, task):
        """Wait for a task, and give its record."""
        while await self.host.call("task.get_status", task) == "pending":
            await self.host.server.world.clock.sleep(0.005)
        return await self.host.call("task.get_record", task)


@pytest.fixture
async def disk(sim_host, tmp_path):
    disk = Disk(sim_host)
    await disk.prepare(tmp_path / "sr")
    return disk


@pytest.mark.parametrize("disk_format", ["raw", "vhd"])
async def test_who_asks_with_nothing_is_answered_and_changes_nothing(disk, disk_format):
    writer, status = await disk.send(b"", 0, format=disk_format)
    assert status == 200
    writer.close()
    assert await disk.read() == bytes(len(DATA))
    writer, status = await disk.send(b"", 0, format=disk_format, vdi="OpaqueRef:no")
    assert status == 500
    writer.close()


async def test_nothing_that_a_task_was_to_tell_of_is_no_question(disk):
    task = await disk.host.call("task.create", "import", "")
    writer, status = await disk.send(b"", 0, format="vhd", task_id=task)
    assert status == 500
    writer.close()
    assert (await disk.ended(task))["error_info"][0] == "VDI_IO_ERROR"


async def test_who_knows_no_length_is_answered_first_and_is_done_when_it_hangs_up(disk):
    asks, status = await disk.send(b"", PEBIBYTE, format="raw")
    assert status == 200
    task = await disk.host.call("task.create", "import", "")
    # The one who only asked holds nothing, though it has not hung up.
    writer, status = await disk.send(DATA, PEBIBYTE, format="raw", task_id=task)
    assert status == 200
    writer.close()
    assert (await disk.ended(task))["result"] == f"<value>{disk.ref}</value>"
    assert await disk.read() == DATA
    asks.close()


@pytest.mark.parametrize(
    ("data", "disk_format"), [(b"", "raw"), (DATA[: 2 * MIB], "raw"), (DATA[:4096], "vhd")]
)
async def test_who_hangs_up_before_the_end_hears_of_it_by_the_task(disk, data, disk_format):
    task = await disk.host.call("task.create", "import", "")
    writer, status = await disk.send(data, PEBIBYTE, format=disk_format, task_id=task)
    assert status == 200
    writer.close()
    record = await disk.ended(task)
    assert (record["status"], record["error_info"][0]) == ("failure", "VDI_IO_ERROR")
    await disk.host.call("VDI.destroy", disk.ref)


def send_and_hang_up(port, body):
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    # Tickets that nobody reads would make of the end a reset, which may lose anything.
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        trust.wrap_socket(plain) as sender,
    ):
        head = f"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: {PEBIBYTE}\r\n\r\n"
        sender.sendall(head.encode() + body)


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_a_sender_sent_while_it_was_held_up_outlives_its_end_under_tls(factory):
    body = bytes(STREAM_WAITING_BYTES_MAX + 200_000)

    async def run():
        loop, may_go_on = asyncio.get_running_loop(), asyncio.Event()
        count = loop.create_future()

        async def answer(request):
            await may_go_on.wait()
            taken = 0
            try:
                async for piece in request.chunks:
                    taken += len(piece)
            except ConnectionResetError:
                count.set_result(taken)
            return Reply(200)

        identity = tls.make("h", "127.0.0.1", now_s=1_800_000_000.0)
        streams = protocol_factory(answer, {}, lambda _method, _path: True)
        server = await loop.create_server(streams, "127.0.0.1", 0, ssl=tls.context(identity))
        port = server.sockets[0].getsockname()[1]
        await asyncio.to_thread(send_and_hang_up, port, body)
        for _ in range(50):
            await asyncio.sleep(0)
        may_go_on.set()
        assert await asyncio.wait_for(count, 10) == len(body)
        server.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
