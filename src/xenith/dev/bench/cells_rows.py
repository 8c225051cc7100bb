"""Rows of servers without a machine: what a tree would have written, filled in directly."""

from __future__ import annotations

from typing import Any

import msgspec


class BenchServer(msgspec.Struct, frozen=True, kw_only=True):
    """One server as far as the benches tell it from the others."""

    id: str
    project_id: str
    cell_id: str
    number: int
    created_s: float


def server_row(server: BenchServer) -> dict[str, Any]:
    """Give the row that the root owns."""
    at = server.number
    address = f"10.{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}"
    port = {
        "id": server.id,
        "network_id": server.id,
        "network_name": "shared",
        "mac": "fa:16:3e:00:00:00",
        "mtu": 1500,
        "addresses": [{"address": address, "version": 4}],
    }
    return {
        "id": server.id,
        "project_id": server.project_id,
        "user_id": "bench",
        "name": f"bench-{at}",
        "hostname": f"bench-{at}",
        "description": None,
        "image_id": "00000000-0000-0000-0000-000000000000",
        "image_properties": {},
        "flavor_id": "1",
        "flavor": {
            "original_name": "m1.tiny",
            "vcpus": 1,
            "ram": 512,
            "disk": 1,
            "ephemeral": 0,
            "swap": 0,
            "extra_specs": {},
        },
        "key_name": None,
        "metadata": {"number": str(at)},
        "tags": [],
        "user_data": None,
        "config_drive": False,
        "disk_config": "MANUAL",
        "zone": None,
        "access_ipv4": "",
        "access_ipv6": "",
        "is_locked": False,
        "locked_reason": None,
        "locked_by_admin": False,
        "ports": [port],
        "hints": {},
        "security_groups": ["default"],
        "reservation_id": "r-bench",
        "launch_index": 0,
        "created_at": server.created_s,
        "updated_at": server.created_s,
        "deleted_at": None,
        "intent_number": 1,
        "pending_task_state": None,
        "cell_id": server.cell_id,
        "fault": None,
        "trail": [],
    }


def instance_row(server: BenchServer) -> dict[str, Any]:
    """Give the row that its cell owns, but for whose it is and its change's number.

    It is on no host: what is measured are rows, and no reconciler should look for a VM.
    """
    return {
        "id": server.id,
        "project_id": server.project_id,
        "host_id": None,
        "host_name": None,
        "zone": "nova",
        "vm_state": "active",
        "task_state": None,
        "power_state": 1,
        "launched_at": server.created_s,
        "terminated_at": None,
        "fault": None,
        "applied_intent": 1,
        "generation": 1,
        "created_at": server.created_s,
        "updated_at": server.created_s,
        "build": "bench",
        "is_confirmed": True,
        "request": None,
        "placement": None,
    }
