"""The classes of XenAPI as data: fields, types, defaults and who may write them.

Generated methods (get_record, get_x, set_x, add_to_x, …) are derived from these tables.
Source: xapi's datamodel; field names, types and defaults are the public API's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from xenith.toolstack.fields import EPOCH, NAMED, OPERATIONS, Field, Kind
from xenith.toolstack.fields import date as _date
from xenith.toolstack.fields import number as _i
from xenith.toolstack.fields import ref as _r
from xenith.toolstack.fields import refs as _set
from xenith.toolstack.fields import text as _s
from xenith.toolstack.fields import texts as _map
from xenith.toolstack.fields import truth as _b
from xenith.toolstack.tables.hosts import HOSTS
from xenith.toolstack.tables.machines import MACHINES
from xenith.toolstack.tables.networks import NETWORKS
from xenith.toolstack.tables.people import PEOPLE
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

__all__ = ["BY_LOWER_NAME", "CLASSES", "EPOCH", "SILENT", "Field", "Kind", "coerce", "convert"]

CLASSES: dict[str, dict[str, Field]] = {
    **PEOPLE,
    **HOSTS,
    **MACHINES,
    "VDI": {
        **NAMED,
        **OPERATIONS,
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
        **OPERATIONS,
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
    "VBD_metrics": {
        "uuid": _s("R"),
        "io_read_kbs": Field("float", "R", 0.0),
        "io_write_kbs": Field("float", "R", 0.0),
        "last_updated": _date(),
        "other_config": _map(),
    },
    "SR": {
        **NAMED,
        **OPERATIONS,
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
    **NETWORKS,
}

#: Class names as events write them, and as clients may ask for them.
BY_LOWER_NAME = {name.lower(): name for name in CLASSES}
#: Classes that tell no events. Source: datamodel, gen_events false.
SILENT = frozenset(("session", "role"))


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
