"""``ova.xml``: the records of a VM and of what belongs to it, each under a name of its own.

Source: xen-api, export.ml and importexport.ml: a struct of ``version`` and ``objects``, an object
being a struct of its class, its id ``Ref:<n>`` and its record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from xenith.core.clock import iso_seconds
from xenith.toolstack.dates import dated_record
from xenith.toolstack.methods import is_null
from xenith.toolstack.objects import Objects, Record
from xenith.toolstack.schema import CLASSES, coerce
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL, xmlrpc
from xenith.xapi.faults import XapiFault

#: Of the form of the file; from 1 on each piece of a disk has its checksum behind it.
EXPORT_VERSION = 2
#: Records of one file: a VM may have 255 disks and 7 cards.
OBJECTS_MAX = 4096

_LEFT_OUT = frozenset(
    (
        *("current_operations", "allowed_operations", "consoles", "crash_dumps", "blobs"),
        *("PIFs", "PBDs", "metrics"),
    )
)
#: What a VM that is imported has anew.
_OF_NO_SNAPSHOT: Record = {
    "is_a_snapshot": False,
    "snapshot_of": NULL,
    "snapshots": [],
    "parent": NULL,
    "children": [],
    "transportable_snapshot_id": "",
    "power_state": "Halted",
    "suspend_VDI": NULL,
    "resident_on": NULL,
    "domid": -1,
}


class Described(NamedTuple):
    """A manifest, and the name in it of each disk whose bytes follow, in their order."""

    xml: bytes
    disks: dict[str, str]


def describe(host: HostServer, vm: str) -> Described:
    """Write the manifest of a VM."""
    objects = host.objects
    found = list(_belonging(objects, vm))
    names = {ref: f"Ref:{number}" for number, (_, ref) in enumerate(found)}
    described = [
        {
            "class": class_name,
            "id": names[ref],
            "snapshot": _renamed(class_name, objects.get(class_name, ref), names),
        }
        for class_name, ref in found
    ]
    version = objects.get("host", host.ref)["software_version"]
    head = {
        "hostname": host.name,
        "date": iso_seconds(host.world.clock.now()),
        "product_version": version.get("product_version", ""),
        "product_brand": version.get("product_brand", ""),
        "build_number": version.get("build_number", ""),
        "xapi_major": 1,
        "xapi_minor": 20,
        "export_vsn": EXPORT_VERSION,
    }
    xml = xmlrpc.fragment({"version": head, "objects": described}).encode()
    disks = {ref: names[ref] for class_name, ref in found if class_name == "VDI"}
    # Source: stream_vdi.ml, in the order of their names as texts.
    return Described(xml, dict(sorted(disks.items(), key=lambda item: item[1])))


def _belonging(objects: Objects, vm: str) -> Iterator[tuple[str, str]]:
    record = objects.get("VM", vm)
    yield "VM", vm
    vbds = [(ref, objects.get("VBD", ref)) for ref in record["VBDs"]]
    yield from (("VBD", ref) for ref, _ in vbds)
    yield from (("VIF", ref) for ref in record["VIFs"])
    networks = (objects.get("VIF", ref)["network"] for ref in record["VIFs"])
    yield from (("network", ref) for ref in dict.fromkeys(networks))
    disks = dict.fromkeys(
        row["VDI"] for _, row in vbds if row["type"] == "Disk" and not is_null(row["VDI"])
    )
    yield from (("VDI", ref) for ref in disks)
    yield from (("SR", ref) for ref in dict.fromkeys(objects.get("VDI", d)["SR"] for d in disks))


def _renamed(class_name: str, record: Record, names: Mapping[str, str]) -> Mapping[str, Any]:
    fields = CLASSES[class_name]
    renamed = dict(dated_record(class_name, record))
    for name, value in record.items():
        if name in _LEFT_OUT:
            renamed[name] = fields[name].make_default()
        elif fields[name].kind == "ref":
            renamed[name] = names.get(value, NULL)
        elif fields[name].kind == "set" and name != "tags":
            renamed[name] = [names.get(one, one) for one in value if _may_stay(one, names)]
    if class_name == "VM":
        renamed.update(_OF_NO_SNAPSHOT)
    if class_name in ("VBD", "VIF"):
        renamed["currently_attached"] = False
    return renamed


def _may_stay(one: str, names: Mapping[str, str]) -> bool:
    # References of what is not in the file mean nothing elsewhere.
    return one in names or not one.startswith("OpaqueRef:")


class Manifest:
    """The records of a file that came in, as they are believed: fields of their types."""

    def __init__(self, data: bytes) -> None:
        """Read.

        Raises:
            XapiFault: IMPORT_ERROR_GENERIC, IMPORT_INCOMPATIBLE_VERSION, FIELD_TYPE_ERROR.
        """
        try:
            whole = xmlrpc.read_fragment(data)
            version, objects = whole["version"], whole["objects"]
            export_version = int(version["export_vsn"])
            read = [(one["class"], one["id"], one["snapshot"]) for one in objects[:OBJECTS_MAX]]
        except (ValueError, TypeError, KeyError) as error:
            raise XapiFault("IMPORT_ERROR_GENERIC", f"its records make no sense: {error}") from None
        if not 1 <= export_version <= EXPORT_VERSION:
            raise XapiFault("IMPORT_INCOMPATIBLE_VERSION")
        if len(objects) > OBJECTS_MAX:
            raise XapiFault("IMPORT_ERROR_GENERIC", f"it has more than {OBJECTS_MAX} records")
        self._records: dict[str, dict[str, Record]] = {}
        for class_name, name, record in read:
            # Of classes that are not known, what refers to them refers to nothing.
            if isinstance(class_name, str) and class_name in CLASSES and isinstance(record, dict):
                of_class = self._records.setdefault(class_name, {})
                of_class[str(name)] = _checked(class_name, record)

    def all(self, class_name: str) -> dict[str, Record]:
        """Give the records of a class by their names in the file."""
        return self._records.get(class_name, {})

    def get(self, class_name: str, name: str) -> Record:
        """Give a record.

        Raises:
            XapiFault: IMPORT_ERROR_FAILED_TO_FIND_OBJECT.
        """
        found = self.all(class_name).get(name)
        if found is None:
            raise XapiFault("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", name)
        return found


def _checked(class_name: str, given: Mapping[str, Any]) -> Record:
    fields = CLASSES[class_name]
    record = {name: field.make_default() for name, field in fields.items()}
    return record | {
        name: coerce(class_name, name, value) for name, value in given.items() if name in fields
    }
