"""CONTROL: what an operator asks of the store itself.

Source: xenstored 4.17, xenstored_control.c: ``check``, ``help``, ``print`` and ``quota``. What is
about its own log, memory and replacement while it runs has no meaning here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xenith.core.log import logger
from xenith.xenstore.connection import Connection
from xenith.xenstore.errors import XenstoreError
from xenith.xenstore.quotas import NAMES
from xenith.xenstore.wire import OK, join

_log = logger("xenstore")


def control(connection: Connection, words: Sequence[bytes]) -> bytes:
    """Do a command.

    Raises:
        XenstoreError: EINVAL if there is no such command, or not with these words.
    """
    command = _COMMANDS.get(words[0]) if words else None
    if command is None:
        raise XenstoreError("EINVAL")
    return command(connection, [word.decode("latin-1") for word in words[1:]])


def _check(connection: Connection, words: Sequence[str]) -> bytes:
    _refuse(words)
    for wrong in connection.store.check_whole():
        _log.error("the store is not whole", found=wrong)
    return OK


def _help(_connection: Connection, words: Sequence[str]) -> bytes:
    _refuse(words)
    return join("\n".join(name.decode() for name in _COMMANDS).encode())


def _print(_connection: Connection, words: Sequence[str]) -> bytes:
    if len(words) != 1:
        raise XenstoreError("EINVAL")
    _log.info("said over CONTROL", text=words[0])
    return OK


def _quota(connection: Connection, words: Sequence[str]) -> bytes:
    match words:
        case []:
            return _quotas(connection)
        case ["set", name, value]:
            if name not in NAMES or not value.isdecimal() or not 0 < int(value) < 1 << 31:
                raise XenstoreError("EINVAL")
            connection.store.quotas.set(name, int(value))
            return OK
        case [domid] if domid.isdecimal():
            return _quotas_of(connection, int(domid))
    raise XenstoreError("EINVAL")


def _quotas(connection: Connection) -> bytes:
    lines = ["Quota settings:"]
    for name, meaning in NAMES.items():
        lines.append(f"{name:<17}: {connection.store.quotas.get(name):>8} {meaning}")
    return join("\n".join([*lines, ""]).encode())


def _quotas_of(connection: Connection, domid: int) -> bytes:
    domain = connection.store.domains.get(domid)
    if domain is None:
        raise XenstoreError("ENOENT")
    held = domain.connection
    figures = {
        "nodes": domain.node_count,
        "watches": 0 if held is None else held.watch_count,
        "transactions": 0 if held is None else held.transaction_count,
        "outstanding": 0 if held is None else held.outstanding_count,
        "memory": domain.memory_bytes,
    }
    lines = [f"Domain {domid}:", *(f"{name:<16}: {value:>8}" for name, value in figures.items())]
    return join("\n".join([*lines, ""]).encode())


def _refuse(words: Sequence[str]) -> None:
    if words:
        raise XenstoreError("EINVAL")


_COMMANDS: dict[bytes, Callable[[Connection, Sequence[str]], bytes]] = {
    b"check": _check,
    b"print": _print,
    b"quota": _quota,
    b"help": _help,
}
