"""The classes of XenAPI as data: fields, types, defaults and who may write them.

Generated methods (get_record, get_x, set_x, add_to_x, …) are derived from these tables.
Source: xapi's datamodel; field names, types and defaults are the public API's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: Types of fields; and of parameters: "text" must be text already, "any" is checked elsewhere.
Kind = Literal["str", "int", "bool", "float", "ref", "date", "set", "map", "text", "texts", "any"]
#: RW: a client sets it; C: given at creation or by a method of its own; R: the server's.
Access = Literal["RW", "C", "R"]

EPOCH = "19700101T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a class."""

    kind: Kind
    access: Access
    default: Any = None
    #: Whether a create must name it.
    is_required: bool = False

    def make_default(self) -> Any:
        """Give a value that no other record shares."""
        if self.kind == "map":
            return dict(self.default or {})
        if self.kind == "set":
            return list(self.default or [])
        return self.default


def _s(access: Access = "RW", default: str = "") -> Field:
    return Field("str", access, default)


def _i(access: Access = "R", default: int = 0) -> Field:
    return Field("int", access, default)


def _b(access: Access = "R", default: bool = False) -> Field:
    return Field("bool", access, default)


def _r(access: Access = "R", required: bool = False) -> Field:
    return Field("ref", access, NULL, required)


def _set(access: Access = "R") -> Field:
    return Field("set", access)


def _map(access: Access = "RW") -> Field:
    return Field("map", access)


def _date() -> Field:
    return Field("date", "R", EPOCH)


_NAMED = {"uuid": _s("R"), "name_label": _s(), "name_description": _s()}
_OPERATIONS = {"allowed_operations": _set(), "current_operations": _map("R")}

CLASSES: dict[str, dict[str, Field]] = {
    "session": {
        "uuid": _s("R"),
        "this_host": _r(),
        "this_user": _r(),
        "last_active": _date(),
        "pool": _r(),
        "other_config": _map(),
        "is_local_superuser": _b(default=True),
        "subject": _r(),
        "auth_user_name": _s("R"),
        "originator": _s("R"),
        "tasks": _set(),
        "parent": _r(),
    },
    "task": {
        **_NAMED,
        **_OPERATIONS,
        "created": _date(),
        "finished": _date(),
        "status": _s("R", "pending"),
        "resident_on": _r(),
        "progress": Field("float", "R", 0.0),
        "type": _s("R", "<none/>"),
        "result": _s("R"),
        "error_info": _set(),
        "other_config": _map(),
        "subtask_of": _r(),
        "subtasks": _set(),
        "backtrace": _s("R", "()"),
    },
    "pool": {
        **_NAMED,
        **_OPERATIONS,
        "master": _r(),
        "default_SR": _r("RW"),
        "suspend_image_SR": _r("RW"),
        "crash_dump_SR": _r("RW"),
        "other_config": _map(),
        "ha_enabled": _b(),
        "gui_config": _map(),
        "restrictions": _map("R"),
        "tags": _set("RW"),
        "blobs": _map("R"),
        "cpu_info": _map("R"),
        "tls_verification_enabled": _b(),
    },
    "host": {
        **_NAMED,
        **_OPERATIONS,
        "memory_overhead": _i(),
        "API_version_major": _i(default=2),
        "API_version_minor": _i(default=21),
        "API_version_vendor": _s("R", "Xenith"),
        "enabled": _b(default=True),
        "software_version": _map("R"),
        "other_config": _map(),
        "capabilities": _set(),
        "cpu_configuration": _map("R"),
        "sched_policy": _s("R", "credit"),
        "resident_VMs": _set(),
        "logging": _map(),
        "PIFs": _set(),
        "suspend_image_sr": _r("RW"),
        "crash_dump_sr": _r("RW"),
        "local_cache_sr": _r(),
        "PBDs": _set(),
        "host_CPUs": _set(),
        "cpu_info": _map("R"),
        "hostname": _s("RW"),
        "address": _s("RW"),
        "metrics": _r(),
        "license_params": _map("R"),
        "tags": _set("RW"),
        "blobs": _map("R"),
        "edition": _s("R"),
        "bios_strings": _map("R"),
        "control_domain": _r(),
        "power_on_mode": _s("R"),
        "PCIs": _set(),
        "PGPUs": _set(),
        "patches": _set(),
        "updates": _set(),
        "iscsi_iqn": _s(),
        "multipathing": _b("RW"),
        "display": _s("R", "enabled"),
        "guest_VCPUs_params": _map(),
        "virtual_hardware_platform_versions": _set(),
        "https_only": _b(),
    },
    "host_metrics": {
        "uuid": _s("R"),
        "memory_total": _i(),
        "memory_free": _i(),
        "live": _b(default=True),
        "last_updated": _date(),
        "other_config": _map(),
    },
    "VM": {
        **_NAMED,
        **_OPERATIONS,
        "power_state": _s("R", "Halted"),
        "user_version": _i("RW", 1),
        "is_a_template": _b("RW"),
        "is_default_template": _b(),
        "suspend_VDI": _r("C"),
        "resident_on": _r(),
        "scheduled_to_be_resident_on": _r(),
        "affinity": _r("RW"),
        "memory_overhead": _i(),
        "memory_target": _i(),
        "memory_static_max": _i("C"),
        "memory_dynamic_max": _i("C"),
        "memory_dynamic_min": _i("C"),
        "memory_static_min": _i("C"),
        "VCPUs_params": _map(),
        "VCPUs_max": _i("RW", 1),
        "VCPUs_at_startup": _i("RW", 1),
        "actions_after_softreboot": _s("RW", "soft_reboot"),
        "actions_after_shutdown": _s("RW", "destroy"),
        "actions_after_reboot": _s("RW", "restart"),
        "actions_after_crash": _s("RW", "restart"),
        "consoles": _set(),
        "VIFs": _set(),
        "VBDs": _set(),
        "VUSBs": _set(),
        "VGPUs": _set(),
        "VTPMs": _set(),
        "crash_dumps": _set(),
        "attached_PCIs": _set(),
        "PV_bootloader": _s(),
        "PV_kernel": _s(),
        "PV_ramdisk": _s(),
        "PV_args": _s(),
        "PV_bootloader_args": _s(),
        "PV_legacy_args": _s(),
        "HVM_boot_policy": _s("RW"),
        "HVM_boot_params": _map(),
        "HVM_shadow_multiplier": Field("float", "C", 1.0),
        "platform": _map(),
        "PCI_bus": _s(),
        "other_config": _map(),
        "domid": _i(default=-1),
        "domarch": _s("R"),
        "last_boot_CPU_flags": _map("R"),
        "is_control_domain": _b(),
        "metrics": _r(),
        "guest_metrics": _r(),
        "last_booted_record": _s("R"),
        "recommendations": _s(),
        "xenstore_data": _map(),
        "ha_always_run": _b("C"),
        "ha_restart_priority": _s("C"),
        "is_a_snapshot": _b(),
        "snapshot_of": _r(),
        "snapshots": _set(),
        "snapshot_time": _date(),
        "transportable_snapshot_id": _s("R"),
        "blobs": _map("R"),
        "tags": _set("RW"),
        "blocked_operations": _map(),
        "snapshot_info": _map("R"),
        "snapshot_metadata": _s("R"),
        "parent": _r(),
        "children": _set(),
        "bios_strings": _map("C"),
        "start_delay": _i("RW"),
        "shutdown_delay": _i("RW"),
        "order": _i("RW"),
        "suspend_SR": _r("RW"),
        "version": _i(),
        "generation_id": _s("R", "0:0"),
        "hardware_platform_version": _i("RW"),
        "has_vendor_device": _b("C"),
        "requires_reboot": _b(),
        "reference_label": _s("R"),
        "domain_type": _s("C", "hvm"),
        "NVRAM": _map("C"),
        "appliance": _r("C"),
    },
    "VM_metrics": {
        "uuid": _s("R"),
        "memory_actual": _i(),
        "VCPUs_number": _i(),
        "VCPUs_utilisation": _map("R"),
        "VCPUs_CPU": _map("R"),
        "VCPUs_params": _map("R"),
        "VCPUs_flags": _map("R"),
        "state": _set(),
        "start_time": _date(),
        "install_time": _date(),
        "last_updated": _date(),
        "other_config": _map(),
        "hvm": _b(),
        "nested_virt": _b(),
        "nomigrate": _b(),
        "current_domain_type": _s("R", "hvm"),
    },
    "VDI": {
        **_NAMED,
        **_OPERATIONS,
        "SR": _r("C", required=True),
        "VBDs": _set(),
        "crash_dumps": _set(),
        "virtual_size": Field("int", "C", 0, is_required=True),
        "physical_utilisation": _i(),
        "type": _s("C", "user"),
        "sharable": _b("C"),
        "read_only": _b("C"),
        "other_config": _map(),
        "storage_lock": _b(),
        "location": _s("R"),
        "managed": _b(default=True),
        "missing": _b(),
        "parent": _r(),
        "xenstore_data": _map(),
        "sm_config": _map(),
        "is_a_snapshot": _b(),
        "snapshot_of": _r(),
        "snapshots": _set(),
        "snapshot_time": _date(),
        "tags": _set("RW"),
        "allow_caching": _b("RW"),
        "on_boot": _s("RW", "persist"),
        "metadata_of_pool": _r(),
        "metadata_latest": _b(),
        "is_tools_iso": _b(),
        "cbt_enabled": _b(),
    },
    "VBD": {
        "uuid": _s("R"),
        **_OPERATIONS,
        "VM": _r("C", required=True),
        "VDI": _r("C"),
        "device": _s("R"),
        "userdevice": _s("C"),
        "bootable": _b("C"),
        "mode": _s("C", "RW"),
        "type": _s("C", "Disk"),
        "unpluggable": _b("RW", default=True),
        "storage_lock": _b(),
        "empty": _b("C"),
        "other_config": _map(),
        "currently_attached": _b(),
        "status_code": _i(),
        "status_detail": _s("R"),
        "runtime_properties": _map("R"),
        "qos_algorithm_type": _s(),
        "qos_algorithm_params": _map(),
        "qos_supported_algorithms": _set(),
        "metrics": _r(),
    },
    "VIF": {
        "uuid": _s("R"),
        **_OPERATIONS,
        "device": _s("C"),
        "network": _r("C", required=True),
        "VM": _r("C", required=True),
        "MAC": _s("C"),
        "MTU": _i("C", 1500),
        "other_config": _map(),
        "currently_attached": _b(),
        "status_code": _i(),
        "status_detail": _s("R"),
        "runtime_properties": _map("R"),
        "qos_algorithm_type": _s(),
        "qos_algorithm_params": _map(),
        "qos_supported_algorithms": _set(),
        "metrics": _r(),
        "MAC_autogenerated": _b(),
        "locking_mode": _s("C", "network_default"),
        "ipv4_allowed": _set("RW"),
        "ipv6_allowed": _set("RW"),
        "ipv4_configuration_mode": _s("R", "None"),
        "ipv4_addresses": _set(),
        "ipv4_gateway": _s("R"),
        "ipv6_configuration_mode": _s("R", "None"),
        "ipv6_addresses": _set(),
        "ipv6_gateway": _s("R"),
    },
    "SR": {
        **_NAMED,
        **_OPERATIONS,
        "VDIs": _set(),
        "PBDs": _set(),
        "virtual_allocation": _i(),
        "physical_utilisation": _i(),
        "physical_size": _i(),
        "type": _s("R"),
        "content_type": _s("R"),
        "shared": _b("C"),
        "other_config": _map(),
        "tags": _set("RW"),
        "sm_config": _map(),
        "blobs": _map("R"),
        "local_cache_enabled": _b(),
        "introduced_by": _r(),
        "clustered": _b(),
        "is_tools_sr": _b(),
    },
    "PBD": {
        "uuid": _s("R"),
        "host": _r("C", required=True),
        "SR": _r("C", required=True),
        "device_config": _map("C"),
        "currently_attached": _b(),
        "other_config": _map(),
    },
    "network": {
        **_NAMED,
        **_OPERATIONS,
        "VIFs": _set(),
        "PIFs": _set(),
        "MTU": _i("RW", 1500),
        "other_config": _map(),
        "bridge": _s("C"),
        "managed": _b("C", default=True),
        "blobs": _map("R"),
        "tags": _set("RW"),
        "default_locking_mode": _s("C", "unlocked"),
        "assigned_ips": _map("R"),
        "purpose": _set(),
    },
    "PIF": {
        "uuid": _s("R"),
        "device": _s("R"),
        "network": _r(),
        "host": _r(),
        "MAC": _s("R"),
        "MTU": _i(default=1500),
        "VLAN": _i(default=-1),
        "metrics": _r(),
        "physical": _b(),
        "currently_attached": _b(),
        "ip_configuration_mode": _s("R", "None"),
        "IP": _s("R"),
        "netmask": _s("R"),
        "gateway": _s("R"),
        "DNS": _s("R"),
        "bond_slave_of": _r(),
        "bond_master_of": _set(),
        "VLAN_master_of": _r(),
        "VLAN_slave_of": _set(),
        "management": _b(),
        "other_config": _map(),
        "disallow_unplug": _b("RW"),
        "primary_address_type": _s("R", "IPv4"),
        "managed": _b(default=True),
    },
    "console": {
        "uuid": _s("R"),
        "protocol": _s("R", "vt100"),
        "location": _s("R"),
        "VM": _r(),
        "other_config": _map(),
    },
}

#: Class names as events write them, and as clients may ask for them.
BY_LOWER_NAME = {name.lower(): name for name in CLASSES}
#: Classes that tell no events. Source: datamodel, gen_events false.
SILENT = frozenset(("session",))


def coerce(class_name: str, name: str, value: Any) -> Any:
    """Give a client's value the type of its field: over XML-RPC, integers come as text.

    Raises:
        XapiFault: FIELD_TYPE_ERROR, it is of no such type.
    """
    return convert(CLASSES[class_name][name].kind, value, name=name)


def convert(kind: Kind, value: Any, *, name: str) -> Any:
    """Give a client's value the type that is asked for.

    Raises:
        XapiFault: FIELD_TYPE_ERROR, it is of no such type.
    """
    try:
        return _CONVERTERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        raise XapiFault("FIELD_TYPE_ERROR", name) from None


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError


def _exact_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    if isinstance(value, str) and _DIGITS.fullmatch(value) is None:
        raise ValueError
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts_by_name(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError
    return {str(key): _text(item) for key, item in value.items()}


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return list(dict.fromkeys(_text(item) for item in value))


def _exact_texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_exact_text(item) for item in value]


_DIGITS = re.compile(r"-?[0-9]{1,19}")
_CONVERTERS: dict[Kind, Callable[[Any], Any]] = {
    "any": lambda value: value,
    "bool": _bool,
    "date": _exact_text,
    "float": _float,
    "int": _int,
    "map": _texts_by_name,
    "ref": lambda value: _exact_text(value) or NULL,
    "set": _texts,
    "str": _text,
    "text": _exact_text,
    "texts": _exact_texts,
}
