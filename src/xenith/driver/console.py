"""A VM's console log, through the plugin that hosts have for it.

Source: os-xenapi's dom0 plugin ``console``: base64 of zlib of the log's end.
"""

from __future__ import annotations

import base64
import binascii
import zlib

from xenith.core.errors import Unavailable
from xenith.core.limits import CONSOLE_LOG_BYTES_MAX
from xenith.driver.connection import HostConnection
from xenith.xapi import XapiFault

#: Newer hosts name a plugin with its ending, older ones without.
PLUGINS, FUNCTION = ("console.py", "console"), "get_console_log"


async def read_console_log(line: HostConnection, vm_ref: str, byte_count: int) -> str:
    """Read at most ``byte_count`` bytes from the end of a VM's serial console log.

    Raises:
        XapiFault: the host has no such plugin, or no log.
        Unavailable: the host's answer is no log.
    """
    record = await line.call("VM.get_record", vm_ref)
    # The log of a domain that is gone can still be read, by the number that it had.
    domid = str(record["domid"])
    if domid == "-1":
        domid = record["other_config"].get("last_dom_id", "-1")
    if domid == "-1":
        return ""
    packed = await _call_plugin(line, domid)
    # A NUL or a broken character in a log is the guest's and must not break who reads it.
    text = unpack_log(packed)[-byte_count:] if byte_count > 0 else b""
    return text.decode("utf-8", "replace")


async def _call_plugin(line: HostConnection, domid: str) -> str:
    params = (FUNCTION, {"dom_id": domid})
    try:
        return str(await line.call("host.call_plugin", line.places.host, PLUGINS[0], *params))
    except XapiFault as fault:
        if fault.code != "XENAPI_MISSING_PLUGIN":
            raise
    return str(await line.call("host.call_plugin", line.places.host, PLUGINS[1], *params))


def unpack_log(packed: str) -> bytes:
    """Unpack a log, however small it was packed.

    Raises:
        Unavailable: it is not what the plugin gives.
    """
    unpacker = zlib.decompressobj()
    try:
        return unpacker.decompress(base64.b64decode(packed), CONSOLE_LOG_BYTES_MAX)
    except (zlib.error, binascii.Error, ValueError) as error:
        raise Unavailable("the host's console log cannot be unpacked") from error
