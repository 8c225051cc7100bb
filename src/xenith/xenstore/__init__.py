"""xenstore: the tree of small values that a host shares with its guests.

``wire`` has the frames, ``client`` speaks to any xenstored, and ``store`` with ``server`` is one,
for hosts without Xen.
"""

from xenith.xenstore.client import Client, Transaction, connect
from xenith.xenstore.connection import Connection, control_connection
from xenith.xenstore.errors import ProtocolError, XenstoreError
from xenith.xenstore.nodes import Permission
from xenith.xenstore.quotas import Quotas
from xenith.xenstore.server import Server
from xenith.xenstore.store import Store

__all__ = [
    "Client",
    "Connection",
    "Permission",
    "ProtocolError",
    "Quotas",
    "Server",
    "Store",
    "Transaction",
    "XenstoreError",
    "connect",
    "control_connection",
]
