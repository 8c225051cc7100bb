"""The XenAPI protocol, shared by both ends: faults, values on the wire, calls, sessions."""

from xenith.xapi.faults import XapiFault
from xenith.xapi.session import EventBatch, XapiSession

__all__ = ["EventBatch", "XapiFault", "XapiSession"]

#: The reference that refers to nothing.
NULL = "OpaqueRef:NULL"
