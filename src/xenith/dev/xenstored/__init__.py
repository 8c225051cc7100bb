"""Real xenstored, from Debian's packages, on a machine without Xen: a peer to be held against.

The daemon needs a hypervisor for two things only, the page that it shares with each domain and
events on it. ``hypervisor.c`` stands in for those; all else is the real thing, guests' permissions
and quotas too.
"""

from xenith.dev.xenstored.daemon import RealXenstored, find_or_unpack
from xenith.dev.xenstored.wires import RingWire, SocketWire

__all__ = ["RealXenstored", "RingWire", "SocketWire", "find_or_unpack"]
