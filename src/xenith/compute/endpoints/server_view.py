"""A server as clients of each microversion see it.

Source: Compute API, "Show Server Details", and the microversion history.
"""

from __future__ import annotations

import hashlib
from typing import Any

from xenith.compute.operations.servers import ServerView
from xenith.compute.states import status_of
from xenith.core.clock import iso_micros, iso_seconds
from xenith.http import Call


def links(call: Call[Any], kind: str, item_id: str) -> list[dict[str, str]]:
    """Give the self and bookmark links of a thing."""
    return [
        {"rel": "self", "href": f"{call.url}/v2.1/{kind}/{item_id}"},
        {"rel": "bookmark", "href": f"{call.url}/{kind}/{item_id}"},
    ]


def bookmark(call: Call[Any], kind: str, item_id: str) -> list[dict[str, str]]:
    """Give the bookmark link alone."""
    return [{"rel": "bookmark", "href": f"{call.url}/{kind}/{item_id}"}]


def brief(call: Call[Any], view: ServerView) -> dict[str, Any]:
    """Give a server's line in a plain list."""
    server = view.server
    return {"id": server.id, "name": server.name, "links": links(call, "servers", server.id)}


def _moment(at_s: float | None) -> str | None:
    """Write a time as launched_at has it: microseconds and no zone."""
    if at_s is None:
        return None
    return iso_micros(at_s)[:-1]


def addresses_of(ports: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Give the addresses of a server by the names of its networks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for port in ports:
        listed = found.setdefault(port["network_name"], [])
        listed += [
            {
                "addr": address["address"],
                "version": address["version"],
                "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS-MAC:mac_addr": port["mac"],
            }
            for address in port["addresses"]
        ]
    return found


def _flavor(call: Call[Any], view: ServerView) -> dict[str, Any]:
    server = view.server
    if not call.at_least(2, 47):
        return {"id": server.flavor_id, "links": bookmark(call, "flavors", server.flavor_id)}
    flavor = dict(server.flavor)
    if not call.allows("os_compute_api:os-flavor-extra-specs:index"):
        flavor.pop("extra_specs", None)
    return flavor


def _image(call: Call[Any], view: ServerView) -> dict[str, Any]:
    server = view.server
    image: dict[str, Any] = {
        "id": server.image_id,
        "links": [{"rel": "bookmark", "href": f"{call.url}/images/{server.image_id}"}],
    }
    if call.at_least(2, 98):
        image["properties"] = server.image_properties
    return image


def host_id(project_id: str, host: str | None) -> str:
    """Hide a host's name behind a hash that differs by project."""
    return hashlib.sha224((project_id + host).encode()).hexdigest() if host else ""


def detail(call: Call[Any], view: ServerView) -> dict[str, Any]:
    """Give all that a caller may see of a server at the call's version."""
    server, instance = view.server, view.instance
    vm_state, task_state = view.vm_state, view.task_state
    updated = server.updated_at
    host = None
    if instance is not None:
        updated = max(updated, instance.updated_at)
        host = instance.host_name
    status = status_of(vm_state, task_state)
    body: dict[str, Any] = {
        "id": server.id,
        "name": server.name,
        "status": status,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "metadata": server.metadata,
        "hostId": host_id(server.project_id, host),
        "image": _image(call, view),
        "flavor": _flavor(call, view),
        "created": iso_seconds(server.created_at),
        "updated": iso_seconds(updated),
        "addresses": addresses_of(server.ports),
        "accessIPv4": server.access_ipv4,
        "accessIPv6": server.access_ipv6,
        "links": links(call, "servers", server.id),
        "OS-DCF:diskConfig": server.disk_config,
        "OS-EXT-AZ:availability_zone": (instance.zone if instance is not None else None)
        or server.zone
        or "",
        "config_drive": "True" if server.config_drive else "",
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": _moment(instance.launched_at if instance is not None else None),
        "OS-SRV-USG:terminated_at": _moment(
            instance.terminated_at if instance is not None else None
        ),
        "OS-EXT-STS:task_state": task_state,
        "OS-EXT-STS:vm_state": vm_state,
        "OS-EXT-STS:power_state": instance.power_state if instance is not None else 0,
        "os-extended-volumes:volumes_attached": [],
    }
    if server.security_groups and server.ports:
        body["security_groups"] = [{"name": name} for name in server.security_groups]
    if status in ("ACTIVE", "BUILD", "PASSWORD", "REBUILD", "RESIZE", "VERIFY_RESIZE"):
        body["progress"] = 100 if status == "ACTIVE" else 0
    told = server.fault if instance is None else instance.fault
    if status in ("ERROR", "DELETED") and told:
        fault = dict(told)
        if not call.principal.is_admin:
            fault.pop("details", None)
        body["fault"] = fault
    if call.principal.is_admin:
        _add_admin_fields(call, view, body, host)
    _add_later_fields(call, view, body)
    return body


def _add_admin_fields(
    call: Call[Any], view: ServerView, body: dict[str, Any], host: str | None
) -> None:
    server = view.server
    body["OS-EXT-SRV-ATTR:host"] = host
    body["OS-EXT-SRV-ATTR:hypervisor_hostname"] = host
    body["OS-EXT-SRV-ATTR:instance_name"] = f"instance-{server.id[:8]}"
    if call.at_least(2, 3):
        body["OS-EXT-SRV-ATTR:reservation_id"] = server.reservation_id
        body["OS-EXT-SRV-ATTR:launch_index"] = server.launch_index
        body["OS-EXT-SRV-ATTR:hostname"] = server.hostname
        body["OS-EXT-SRV-ATTR:kernel_id"] = ""
        body["OS-EXT-SRV-ATTR:ramdisk_id"] = ""
        body["OS-EXT-SRV-ATTR:root_device_name"] = "/dev/xvda"
        body["OS-EXT-SRV-ATTR:user_data"] = server.user_data
    if call.at_least(2, 16):
        body["host_status"] = _host_status(call, view)


def _host_status(call: Call[Any], view: ServerView) -> str:
    """Tell how the host is. Source: Compute API 2.16, `host_status`."""
    if view.instance is None or view.instance.host_id is None:
        return ""
    return "UP" if call.service.context.is_host_up(view.instance.host_id) else "DOWN"


def _add_later_fields(call: Call[Any], view: ServerView, body: dict[str, Any]) -> None:
    server = view.server
    if call.at_least(2, 9):
        body["locked"] = server.is_locked
    if call.at_least(2, 19):
        body["description"] = server.description
    if call.at_least(2, 26):
        body["tags"] = server.tags
    if call.at_least(2, 63):
        body["trusted_image_certificates"] = None
    if call.at_least(2, 71) and call.endpoint.name != "servers.list_servers_detailed":
        group = server.hints.get("group")
        body["server_groups"] = [group] if group else []
    if call.at_least(2, 73):
        body["locked_reason"] = server.locked_reason
    if call.at_least(2, 90):
        body["OS-EXT-SRV-ATTR:hostname"] = server.hostname
    if call.at_least(2, 96):
        body["pinned_availability_zone"] = server.zone
    if call.at_least(2, 100):
        body["scheduler_hints"] = server.hints


def created(call: Call[Any], view: ServerView) -> dict[str, Any]:
    """Give the answer to an update or a rebuild: what "show" gives, less what came later there.

    Source: Compute API, "Update Server": before 2.75 a part of the fields, and of an address no
    more than itself; from 2.75 on all.
    """
    body = detail(call, view)
    if call.at_least(2, 75):
        return body
    kept = {
        "id",
        "name",
        "status",
        "tenant_id",
        "user_id",
        "metadata",
        "hostId",
        "image",
        "flavor",
        "created",
        "updated",
        "addresses",
        "accessIPv4",
        "accessIPv6",
        "links",
        "progress",
        "fault",
        "OS-DCF:diskConfig",
        "locked",
        "description",
        "tags",
        "trusted_image_certificates",
        "server_groups",
        "locked_reason",
    }
    told = {name: value for name, value in body.items() if name in kept}
    told["addresses"] = {
        network: [{name: each[name] for name in ("version", "addr")} for each in addresses]
        for network, addresses in body["addresses"].items()
    }
    return told
