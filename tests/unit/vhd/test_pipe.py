"""The ends of a stream: short reads and writes, bytes that were looked at, memory on a page."""

import ctypes
import io

import pytest

from xenith.core.errors import Invalid
from xenith.vhd.pipe import Peeked, PipeSink, Source, new_buffer


class Slow:
    """A stream that gives and takes three bytes at a time."""

    def __init__(self, data=b""):
        self.left, self.taken = data, b""

    def readinto(self, buffer):
        part, self.left = self.left[: min(3, len(buffer))], self.left[min(3, len(buffer)) :]
        buffer[: len(part)] = part
        return len(part)

    def write(self, data):
        self.taken += bytes(data[:3])
        return len(data[:3])


def test_a_source_goes_on_until_it_has_what_was_asked_for():
    source = Source(Slow(b"0123456789"))
    assert (source.read(4), source.at) == (b"0123", 4)
    source.skip_to(6)
    assert source.read(4) == b"6789"
    with pytest.raises(Invalid, match="ends at byte 10"):
        source.read(1)


def test_a_sink_goes_on_until_all_is_written_with_zeros_between():
    stream = Slow()
    sink = PipeSink(stream)
    sink.write(2, b"abcdefg")
    sink.end(12)
    assert (stream.taken, sink.at) == (b"\0\0abcdefg\0\0\0", 12)


@pytest.mark.parametrize("data", [b"", b"01", b"0123456789"])
def test_bytes_that_were_looked_at_are_given_all_the_same(data):
    peeked = Peeked(Slow(data), 4)
    assert peeked.first == data[:4]
    view = memoryview(bytearray(20))
    assert Source(peeked).read_some(view) == len(data)
    assert bytes(view[: len(data)]) == data
    assert Peeked(io.BytesIO(data), 4).first == data[:4]


def test_a_buffer_begins_on_a_page_and_is_zeros():
    buffer = new_buffer(5000)
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % 4096 == 0
    assert bytes(buffer) == bytes(5000)
