"""The server's side of NBD, as much of it as QEMU uses: one client, one disk, simple replies.

Source: NetworkBlockDevice/nbd, doc/proto.md: fixed newstyle negotiation, transmission phase.
All integers are big-endian.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Protocol

from xenith.core.errors import Exhausted, XenithError

_OPTION_MAGIC = b"IHAVEOPT"
_GREETING = b"NBDMAGIC" + _OPTION_MAGIC + struct.pack(">H", 3)  # fixed newstyle, no zeroes
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_EXPORT_NAME, _ABORT, _INFO, _GO = 1, 2, 6, 7
_ACK, _TELL, _UNSUPPORTED = 1, 3, (1 << 31) + 1
_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_REPLY = struct.Struct(">IIQ")
_REPLY_MAGIC = 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM, _ZERO = 0, 1, 2, 3, 4, 6
_FUA = 1
#: Has flags, flush, forced access, trim, zeroes; and read-only.
_FLAGS, _READ_ONLY_FLAG = 1 | 4 | 8 | 32 | 64, 2

#: Bytes of one request. Source: doc/proto.md, 32 MiB is the usual most.
REQUEST_BYTES_MAX = 32 * 1024 * 1024
#: Bytes of an option; export names have at most 4096.
_OPTION_BYTES_MAX = 16 * 1024
_SECTOR_BYTES, _PREFERRED_BYTES = 512, 4096


class Disk(Protocol):
    """What is served."""

    is_read_only: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill the view with the disk's bytes."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write whole sectors."""

    def zero(self, offset: int, length_bytes: int) -> None:
        """Make whole sectors zero."""

    def flush(self) -> None:
        """Bring all that was written to the host's disk."""


class ProtocolError(Exception):
    """The client does not speak NBD as we do."""


def serve(connection: socket.socket, disk: Disk) -> None:
    """Serve one client until it leaves. Blocks.

    Raises:
        ProtocolError: it does not make sense.
        OSError: the connection broke.
    """
    client = _Client(connection, disk)
    if client.agree():
        while client.answer():
            pass


class _Client:
    def __init__(self, connection: socket.socket, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk
        self._buffer = memoryview(bytearray(256 * 1024))

    def agree(self) -> bool:
        """Go through the options; tell whether the client goes on to use the disk."""
        self._connection.sendall(_GREETING)
        self._take(4)
        while True:
            magic, option, length = _OPTION.unpack(self._take(_OPTION.size))
            if magic != _OPTION_MAGIC or length > _OPTION_BYTES_MAX:
                raise ProtocolError("no option")
            self._take(length)
            if option == _EXPORT_NAME:
                self._connection.sendall(struct.pack(">QH", self._disk.size_bytes, self._flags()))
                return True
            if option in (_INFO, _GO):
                told = struct.pack(">HQH", 0, self._disk.size_bytes, self._flags())
                self._tell(option, _TELL, told)
                sizes = _SECTOR_BYTES, _PREFERRED_BYTES, REQUEST_BYTES_MAX
                self._tell(option, _TELL, struct.pack(">HIII", 3, *sizes))
                self._tell(option, _ACK)
                if option == _GO:
                    return True
            elif option == _ABORT:
                self._tell(option, _ACK)
                return False
            else:
                self._tell(option, _UNSUPPORTED)

    def answer(self) -> bool:
        """Answer one request; tell whether another may come."""
        magic, flags, kind, handle, offset, length = _REQUEST.unpack(self._take(_REQUEST.size))
        if magic != _REQUEST_MAGIC:
            raise ProtocolError("no request")
        if kind == _DISCONNECT:
            return False
        if kind in (_READ, _WRITE) and length > REQUEST_BYTES_MAX:
            raise ProtocolError(f"a request of {length} bytes")
        # A write's bytes are in the stream, whatever becomes of it.
        data = self._take(length) if kind == _WRITE else None
        try:
            if kind == _READ:
                data = self._space(length)
                self._disk.read_into(offset, data)
            else:
                self._do(kind, offset, length, data)
            if flags & _FUA:
                self._disk.flush()
        except XenithError as error:
            self._reply(handle, errno.ENOSPC if isinstance(error, Exhausted) else errno.EINVAL)
        except OSError as error:
            code = errno.ENOSPC if error.errno in (errno.ENOSPC, errno.EDQUOT) else errno.EIO
            self._reply(handle, code)
        else:
            self._reply(handle, 0, data if kind == _READ else None)
        return True

    def _do(self, kind: int, offset: int, length: int, data: memoryview | None) -> None:
        if kind == _FLUSH:
            self._disk.flush()
        elif self._disk.is_read_only:
            raise OSError(errno.EPERM, "the disk is read-only")
        elif data is not None:
            self._disk.write(offset, data)
        elif kind == _ZERO:
            self._disk.zero(offset, length)
        elif kind != _TRIM:
            raise ProtocolError(f"command {kind}")

    def _flags(self) -> int:
        return _FLAGS | (_READ_ONLY_FLAG if self._disk.is_read_only else 0)

    def _tell(self, option: int, kind: int, data: bytes = b"") -> None:
        head = _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data))
        self._connection.sendall(head + data)

    def _reply(self, handle: int, code: int, data: memoryview | None = None) -> None:
        head = _REPLY.pack(_REPLY_MAGIC, code, handle)
        if data is None:
            self._connection.sendall(head)
            return
        sent = self._connection.sendmsg([head, data])
        if sent < len(head):
            self._connection.sendall(head[sent:])
            sent = len(head)
        if sent < len(head) + len(data):
            self._connection.sendall(data[sent - len(head) :])

    def _space(self, length: int) -> memoryview:
        if length > len(self._buffer):
            self._buffer = memoryview(bytearray(length))
        return self._buffer[:length]

    def _take(self, length: int) -> memoryview:
        """Receive so many bytes; they last until the next are received."""
        view = self._space(length)
        done = 0
        while done < length:
            count = self._connection.recv_into(view[done:])
            if not count:
                raise ConnectionResetError("the client hung up")
            done += count
        return view
