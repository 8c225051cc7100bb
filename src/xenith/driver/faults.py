"""What a host's refusals mean to whoever asked: one table from XenAPI's codes to our errors.

A code that the table does not know is ``Unavailable``: another host may well do it, and a build
goes to the next one. Source: XenAPI, "Error Handling", and the datamodel's errors.
"""

from __future__ import annotations

from types import TracebackType

from xenith.core.errors import (
    Conflict,
    Exhausted,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
    XenithError,
)
from xenith.xapi import XapiFault

_ERRORS: dict[str, type[XenithError]] = {
    "HANDLE_INVALID": NotFound,
    "UUID_INVALID": NotFound,
    "VDI_MISSING": NotFound,
    "VM_BAD_POWER_STATE": Conflict,
    "OTHER_OPERATION_IN_PROGRESS": Conflict,
    "OPERATION_NOT_ALLOWED": Conflict,
    "OPERATION_BLOCKED": Conflict,
    "VM_IS_TEMPLATE": Conflict,
    "VDI_IN_USE": Conflict,
    "DEVICE_ALREADY_EXISTS": Conflict,
    "HOST_NOT_ENOUGH_FREE_MEMORY": Exhausted,
    "NO_HOSTS_AVAILABLE": Exhausted,
    "OUT_OF_SPACE": Exhausted,
    "SR_FULL": Exhausted,
    "SR_BACKEND_FAILURE_44": Exhausted,
    "VDI_TOO_LARGE": Exhausted,
    "VDI_TOO_SMALL": Invalid,
    "FIELD_TYPE_ERROR": Invalid,
    "INVALID_VALUE": Invalid,
    "VALUE_NOT_SUPPORTED": Invalid,
    "MAC_INVALID": Invalid,
    "VDI_IO_ERROR": Invalid,
    "MESSAGE_METHOD_UNKNOWN": Unsupported,
    "NOT_IMPLEMENTED": Unsupported,
    "VM_LACKS_FEATURE": Unsupported,
    "VM_LACKS_FEATURE_SHUTDOWN": Unsupported,
    "VM_LACKS_FEATURE_SUSPEND": Unsupported,
    "VM_MISSING_PV_DRIVERS": Unsupported,
    "XENAPI_MISSING_PLUGIN": Unsupported,
}

#: A text of the host's that is longer than this is cut: it may hold a whole log.
DETAIL_CHARACTERS_MAX = 400


def error_of(fault: XapiFault, *, host_name: str, doing: str) -> XenithError:
    """Give the error that a fault means.

    >>> error_of(XapiFault("SR_FULL", "1", "0"), host_name="h1", doing="clone").message
    'host h1 could not clone: SR_FULL(1, 0)'
    """
    text = str(fault)[:DETAIL_CHARACTERS_MAX]
    error = _ERRORS.get(fault.code, Unavailable)
    return error(f"host {host_name} could not {doing}: {text}", kind=fault.code, host=host_name)


class Spoken:
    """A block in which a host's fault is raised as an error of ours.

    A class and not a generator: it stands around every call of a build.
    """

    __slots__ = ("_doing", "_host_name")

    def __init__(self, host_name: str, doing: str) -> None:
        self._host_name = host_name
        self._doing = doing

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Raise a fault as what it means.

        Raises:
            XenithError: the host refused.
        """
        if isinstance(error, XapiFault):
            raise error_of(error, host_name=self._host_name, doing=self._doing) from error
