"""Quotas: what one domain may have. The control domain has none.

Source: xenstored 4.17, the defaults of its options and CONTROL's ``quota``.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenith.core.units import MIB

#: Names and what CONTROL says of them, in xenstored's order.
NAMES = {
    "nodes": "Nodes per domain",
    "watches": "Watches per domain",
    "transactions": "Transactions per domain",
    "outstanding": "Outstanding requests per domain",
    "transaction-nodes": "Max. number of accessed nodes per transaction",
    "memory": "Total Xenstore memory per domain (error level)",
    "node-size": "Max. size of a node",
    "path-max": "Max. length of a node path",
    "permissions": "Max. number of permissions per node",
}


@dataclass
class Quotas:
    """Limits on each domain but the control domain. Changed while the store runs, by CONTROL."""

    node_count: int = 1000
    watch_count: int = 128
    transaction_count: int = 10
    #: Answers that it has not taken yet; while it has so many, it is not listened to.
    outstanding_count: int = 20
    transaction_node_count: int = 1024
    #: Of its nodes, watches, transactions and what waits to be sent to it.
    memory_bytes: int = 5 * MIB // 2
    node_size_bytes: int = 2048
    path_bytes: int = 2048
    permission_count: int = 5

    def get(self, name: str) -> int:
        """Give a quota by CONTROL's name; KeyError if there is none."""
        return int(getattr(self, _FIELDS[name]))

    def set(self, name: str, value: int) -> None:
        """Change a quota by CONTROL's name; KeyError if there is none."""
        setattr(self, _FIELDS[name], value)


_FIELDS = dict(
    zip(
        NAMES,
        (
            "node_count",
            "watch_count",
            "transaction_count",
            "outstanding_count",
            "transaction_node_count",
            "memory_bytes",
            "node_size_bytes",
            "path_bytes",
            "permission_count",
        ),
        strict=True,
    )
)
