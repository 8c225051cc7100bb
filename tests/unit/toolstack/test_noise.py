"""A live host against bytes that are no calls: the worst is a refusal, and the next is served."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CALL = b'{"jsonrpc":"2.0","method":"VM.get_all","params":["OpaqueRef:x"],"id":1}'
XML = b"<methodCall><methodName>VM.get_all</methodName><params><param/></params></methodCall>"
HEAD = b"POST /jsonrpc HTTP/1.1\r\ncontent-length: %d\r\n\r\n"


def framed(body: bytes) -> bytes:
    return HEAD % len(body) + body


@st.composite
def broken(draw):
    """A call with some of its bytes changed, and cut off somewhere."""
    data = bytearray(framed(draw(st.sampled_from([CALL, XML]))))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))])


@pytest.mark.slow
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=broken() | st.binary(max_size=200) | st.binary(max_size=200).map(framed))
async def test_no_bytes_stop_a_host(sim_host, data):
    port = int(sim_host.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    if answer:
        assert answer.split(b" ", 2)[1] in (b"100", b"200", b"400", b"404", b"431", b"500")
    assert await sim_host.call("VM.get_all") == []
