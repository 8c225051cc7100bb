"""What an operation's payload means, and what its answer looks like.

Source: xen, docs/misc/xenstore.txt.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from xenith.xenstore import paths
from xenith.xenstore.connection import Connection
from xenith.xenstore.control import control
from xenith.xenstore.errors import XenstoreError
from xenith.xenstore.nodes import Node, parse_permission
from xenith.xenstore.store import CONTROL_DOMID, Domain
from xenith.xenstore.wire import OK, PAYLOAD_BYTES_MAX, Frame, Op, join, texts

Handler = Callable[[Connection, Frame], bytes]
#: What is to be done once the answer is on its way.
Afterwards = Callable[[], None]
_NUMBER = re.compile(rb"\s*([+-]?[0-9]+)")
#: What a domain calls itself. Source: xen.h, DOMID_SELF.
_DOMID_SELF = 0x7FF0


def _nothing() -> None:
    pass


def answer(connection: Connection, frame: Frame) -> tuple[Frame, Afterwards]:
    """Do what a request asks; give the answer, which may be an error, and what comes after it."""
    afterwards = _nothing
    try:
        if frame.op == Op.WATCH:
            afterwards = _watch(connection, frame)
            payload = OK
        else:
            payload = _handle(connection, frame)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise XenstoreError("E2BIG")
    except XenstoreError as error:
        payload = join(error.name.encode())
        return frame._replace(op=Op.ERROR, payload=payload), afterwards
    return frame._replace(payload=payload), afterwards


def _handle(connection: Connection, frame: Frame) -> bytes:
    handler = _HANDLERS.get(frame.op)
    if handler is None:
        raise XenstoreError("ENOSYS")
    if frame.op in _PRIVILEGED and not connection.is_privileged:
        raise XenstoreError("EACCES")
    if frame.op not in _OUTSIDE:
        connection.check_transaction(frame.transaction_id)
    return handler(connection, frame)


# -- nodes


def _read(connection: Connection, frame: Frame) -> bytes:
    return connection.read(_only_path(frame), transaction_id=frame.transaction_id)


def _directory(connection: Connection, frame: Frame) -> bytes:
    return _listed(connection.directory(_only_path(frame), transaction_id=frame.transaction_id))


def _directory_part(connection: Connection, frame: Frame) -> bytes:
    path, offset = _texts(frame, 2)
    node = connection.directory(_path(path), transaction_id=frame.transaction_id)
    listed = _listed(node)
    head = join(str(node.generation).encode())
    at = _number(offset)
    if not 0 <= at < len(listed):
        return head + b"\0"
    room = PAYLOAD_BYTES_MAX - len(head) - 1
    end = at
    while end < len(listed) and listed.index(b"\0", end) - at < room:
        end = listed.index(b"\0", end) + 1
    return head + listed[at:end] + (b"\0" if end == len(listed) else b"")


def _listed(node: Node) -> bytes:
    return join(*(name.encode() for name in node.children))


def _write(connection: Connection, frame: Frame) -> bytes:
    path, found, value = frame.payload.partition(b"\0")
    if not found:
        raise XenstoreError("EINVAL")
    connection.write(_path(path), value, transaction_id=frame.transaction_id)
    return OK


def _mkdir(connection: Connection, frame: Frame) -> bytes:
    connection.mkdir(_only_path(frame), transaction_id=frame.transaction_id)
    return OK


def _rm(connection: Connection, frame: Frame) -> bytes:
    connection.rm(_only_path(frame), transaction_id=frame.transaction_id)
    return OK


def _get_perms(connection: Connection, frame: Frame) -> bytes:
    held = connection.get_perms(_only_path(frame), transaction_id=frame.transaction_id)
    return join(*(str(permission).encode() for permission in held))


def _set_perms(connection: Connection, frame: Frame) -> bytes:
    found = texts(frame.payload)
    if len(found) < 2:
        raise XenstoreError("EINVAL")
    count_max = connection.store.quotas.permission_count
    if not connection.is_privileged and len(found) - 1 > count_max:
        raise XenstoreError("ENOSPC")
    wanted = [parse_permission(text) for text in found[1:]]
    connection.set_perms(_path(found[0]), wanted, transaction_id=frame.transaction_id)
    return OK


# -- watches and transactions


def _watch(connection: Connection, frame: Frame) -> Afterwards:
    found = texts(frame.payload)
    if len(found) not in (2, 3):
        raise XenstoreError("EINVAL")
    depth_max = _number(found[2]) if len(found) == 3 else None
    if depth_max is not None and depth_max < 0:
        raise XenstoreError("EINVAL")
    return connection.watch(_path(found[0]), found[1], depth_max=depth_max)


def _unwatch(connection: Connection, frame: Frame) -> bytes:
    path, token = _texts(frame, 2)
    connection.unwatch(_path(path), token)
    return OK


def _reset_watches(connection: Connection, _frame: Frame) -> bytes:
    connection.reset()
    return OK


def _transaction_start(connection: Connection, frame: Frame) -> bytes:
    if frame.transaction_id:
        raise XenstoreError("EBUSY")
    return join(str(connection.transaction_start()).encode())


def _transaction_end(connection: Connection, frame: Frame) -> bytes:
    word = _only_text(frame)
    if word not in (b"T", b"F"):
        raise XenstoreError("EINVAL")
    connection.transaction_end(frame.transaction_id, is_commit=word == b"T")
    return OK


# -- domains


def _introduce(connection: Connection, frame: Frame) -> bytes:
    found = texts(frame.payload)
    if len(found) < 3 or _number(found[2]) <= 0:
        raise XenstoreError("EINVAL")
    domid = _number(found[0])
    if domid != CONTROL_DOMID and domid not in connection.store.domains:
        # Its page and its event channel are the host's to give: there is no such domain.
        raise XenstoreError("ENOENT")
    connection.store.introduce(domid)
    return OK


def _release(connection: Connection, frame: Frame) -> bytes:
    connection.store.release(_guest(connection, frame).domid)
    return OK


def _resume(connection: Connection, frame: Frame) -> bytes:
    # Domains here are told by their host when they end, each time; nothing is to be re-armed.
    _guest(connection, frame)
    return OK


def _set_target(connection: Connection, frame: Frame) -> bytes:
    found = texts(frame.payload)
    if len(found) < 2:
        raise XenstoreError("EINVAL")
    domain, target = (_introduced(connection, _number(text)) for text in found[:2])
    if domain.connection is None:
        raise XenstoreError("EINVAL")
    domain.connection.target = target
    return OK


def _get_domain_path(_connection: Connection, frame: Frame) -> bytes:
    return join(paths.domain_path(_number(_only_text(frame)) % (1 << 32)).encode())


def _is_domain_introduced(connection: Connection, frame: Frame) -> bytes:
    domid = _number(_only_text(frame))
    domain = connection.store.domains.get(domid)
    is_there = domid == _DOMID_SELF or (domain is not None and domain.is_introduced)
    return join(b"T" if is_there else b"F")


def _control(connection: Connection, frame: Frame) -> bytes:
    return control(connection, texts(frame.payload))


def _guest(connection: Connection, frame: Frame) -> Domain:
    domid = _number(_only_text(frame))
    if domid == CONTROL_DOMID:
        raise XenstoreError("EINVAL")
    return _introduced(connection, domid)


def _introduced(connection: Connection, domid: int) -> Domain:
    domain = connection.store.domains.get(domid)
    if domain is None or not domain.is_introduced:
        raise XenstoreError("ENOENT")
    return domain


# -- payloads


def _texts(frame: Frame, count: int) -> list[bytes]:
    found = texts(frame.payload)
    if len(found) != count:
        raise XenstoreError("EINVAL")
    return found


def _only_text(frame: Frame) -> bytes:
    text, found, rest = frame.payload.partition(b"\0")
    if not found or rest:
        raise XenstoreError("EINVAL")
    return text


def _only_path(frame: Frame) -> str:
    return _path(_only_text(frame))


def _path(text: bytes) -> str:
    # Bytes that no path may have become characters that no path may have.
    return text.decode("latin-1")


def _number(text: bytes) -> int:
    """Read a number as C's atoi does: what begins like none is 0."""
    found = _NUMBER.match(text)
    return int(found[1][:20]) if found else 0


_HANDLERS: dict[int, Handler] = {
    Op.CONTROL: _control,
    Op.DIRECTORY: _directory,
    Op.READ: _read,
    Op.GET_PERMS: _get_perms,
    Op.UNWATCH: _unwatch,
    Op.TRANSACTION_START: _transaction_start,
    Op.TRANSACTION_END: _transaction_end,
    Op.INTRODUCE: _introduce,
    Op.RELEASE: _release,
    Op.GET_DOMAIN_PATH: _get_domain_path,
    Op.WRITE: _write,
    Op.MKDIR: _mkdir,
    Op.RM: _rm,
    Op.SET_PERMS: _set_perms,
    Op.IS_DOMAIN_INTRODUCED: _is_domain_introduced,
    Op.RESUME: _resume,
    Op.SET_TARGET: _set_target,
    Op.RESET_WATCHES: _reset_watches,
    Op.DIRECTORY_PART: _directory_part,
}
_PRIVILEGED = (
    Op.CONTROL,
    Op.INTRODUCE,
    Op.RELEASE,
    Op.IS_DOMAIN_INTRODUCED,
    Op.RESUME,
    Op.SET_TARGET,
)
#: Their transaction id is not looked at.
_OUTSIDE = (Op.WATCH, Op.UNWATCH)
