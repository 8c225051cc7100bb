"""What goes wrong with VHDs, in XenAPI's codes. This is the one table of it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from xenith.core.errors import Conflict, Exhausted, Invalid, NotFound, XenithError
from xenith.toolstack.backends import BackendError

#: Source: sm's error table: 46 a disk that cannot be used, 79 a size that is none, 109 a chain
#: that is too long.
UNAVAILABLE = "SR_BACKEND_FAILURE_46"
WRONG_SIZE = "SR_BACKEND_FAILURE_79"
CHAIN_TOO_LONG = "SR_BACKEND_FAILURE_109"


@contextlib.contextmanager
def answering(uuid: str, operation: str) -> Iterator[None]:
    """Say as a XenAPI failure what goes wrong while something is done to a disk."""
    try:
        yield
    except XenithError as error:
        raise _fault(error, uuid, operation) from error
    except ConnectionError:
        raise  # of the stream's other end, and none of the disk's
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackendError("SR_FULL", "", "") from error
        raise BackendError("VDI_IO_ERROR", error.strerror or str(error)) from error


def _fault(error: XenithError, uuid: str, operation: str) -> BackendError:
    if isinstance(error, NotFound):
        return BackendError("VDI_MISSING", "", uuid)
    if error.kind == "VhdChainTooLong":
        return BackendError(CHAIN_TOO_LONG, "", error.message, "")
    if error.kind == "VhdInUse":
        return BackendError("VDI_IN_USE", uuid, operation)
    if error.kind == "VhdHidden":
        return BackendError("VDI_NOT_MANAGED", uuid)
    if isinstance(error, Invalid | Conflict | Exhausted):
        return BackendError(UNAVAILABLE, "", error.message, "")
    return BackendError("INTERNAL_ERROR", error.message)
