"""Networks of a host: a bridge each, to which VIFs are plugged."""

from __future__ import annotations

from typing import Any

from xenith.toolstack.methods import creation, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


@method("network.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make a network; without a bridge of its own it gets the next. Source: network.create."""
    fields = creation("network", record)
    if not fields.get("bridge"):
        taken = {item["bridge"] for item in host.objects.all("network").values()}
        number = len(taken)
        while f"xapi{number}" in taken:
            number += 1
        fields["bridge"] = f"xapi{number}"
    return host.objects.create("network", **fields)


@method("network.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Remove a network that nothing is plugged to. Source: network.destroy."""
    record = host.objects.get("network", ref)
    if record["VIFs"]:
        raise XapiFault("NETWORK_CONTAINS_VIF", record["VIFs"][0])
    if record["PIFs"]:
        raise XapiFault("NETWORK_CONTAINS_PIF", record["PIFs"][0])
    host.objects.delete("network", ref)
