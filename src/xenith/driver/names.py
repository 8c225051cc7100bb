"""What our objects on a host are called, so that each is found again by its name alone.

Every name is made of an id and nothing of a tenant's, so a step done twice names one thing. The
scheme may never change without a new prefix: hosts outlive releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xenith.core.ids import is_uuid

#: Keys of ``other_config``.
INSTANCE_KEY = "xenith-instance"
IMAGE_KEY = "xenith-image"
#: Holds the image's own VDI uuid once its import is done: a clone has the key, not the uuid.
COMPLETE_KEY = "xenith-image-complete"

#: Holds when a build last asked for a cached image, in epoch seconds.
ASKED_KEY = "xenith-image-asked"

#: Holds the id of the image that a snapshot is to become.
SNAPSHOT_KEY = "xenith-snapshot-for"

#: Says that a disk is yet to be formatted; taken off when it is.
BLANK_KEY = "xenith-blank"

_VM, _ROOT, _CONFIG, _SNAPSHOT, _IMAGE, _NETWORK = (
    "xenith-vm-",
    "xenith-root-",
    "xenith-config-",
    "xenith-snapshot-",
    "xenith-image-",
    "xenith-",
)
_RESCUE, _RESCUE_CONFIG, _SWAP, _EPHEMERAL = (
    "xenith-rescue-",
    "xenith-rescue-config-",
    "xenith-swap-",
    "xenith-ephemeral-",
)
_CLAIM = re.compile("xenith-bringing-(.+)-([0-9]{1,9})")
_OF_INSTANCE = re.compile(
    "xenith-(vm|root|config|snapshot|rescue-config|rescue|swap|ephemeral-[0-9]{1,2})-(.+)"
)


def vm_name(instance_id: str) -> str:
    """Name an instance's VM."""
    return _VM + instance_id


def root_name(instance_id: str) -> str:
    """Name an instance's root disk."""
    return _ROOT + instance_id


def config_name(instance_id: str) -> str:
    """Name an instance's config drive."""
    return _CONFIG + instance_id


def snapshot_name(instance_id: str) -> str:
    """Name the snapshot of an instance's root disk that is on its way to be an image."""
    return _SNAPSHOT + instance_id


def rescue_name(instance_id: str) -> str:
    """Name the disk that an instance is rescued with."""
    return _RESCUE + instance_id


def rescue_config_name(instance_id: str) -> str:
    """Name the config drive of an instance that is rescued."""
    return _RESCUE_CONFIG + instance_id


def is_rescue_disk(name_label: str) -> bool:
    """Tell whether a disk of that name is one that an instance is rescued with."""
    return name_label.startswith(_RESCUE) and instance_of(name_label) is not None


def swap_name(instance_id: str) -> str:
    """Name an instance's swap disk."""
    return _SWAP + instance_id


def ephemeral_name(instance_id: str, number: int) -> str:
    """Name one of an instance's ephemeral disks; ``number`` is 0 to 99."""
    return f"{_EPHEMERAL}{number}-{instance_id}"


def is_flavor_disk(name_label: str) -> bool:
    """Tell whether a disk of that name is one that a flavor gives beside the root disk."""
    return name_label.startswith((_SWAP, _EPHEMERAL))


def image_name(image_id: str) -> str:
    """Name a cached image."""
    return _IMAGE + image_id


def claim_key(image_id: str, number: int) -> str:
    """Name a claim on an image among the marks of an SR; a higher number takes over."""
    return f"xenith-bringing-{image_id}-{number}"


def claims_by_image(marks: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """Read the claims among the marks of an SR: by image, the number and the task of each.

    >>> claims_by_image({claim_key("i", 2): "task", "other": ""})
    {'i': {2: 'task'}}
    """
    found: dict[str, dict[int, str]] = {}
    for key, task in marks.items():
        if (read := _CLAIM.fullmatch(key)) is not None:
            found.setdefault(read[1], {})[int(read[2])] = task
    return found


def network_name(network_id: str) -> str:
    """Name a network of the host."""
    return _NETWORK + network_id


def main_names(instance_id: str) -> tuple[str, ...]:
    """Give the names that every instance may have; its further disks have others."""
    return tuple(name(instance_id) for name in (vm_name, root_name, config_name, snapshot_name))


def instance_of(name_label: str) -> str | None:
    """Tell which instance a VM or VDI is of, by its name.

    >>> instance_of("xenith-root-" + "0" * 32) == "0" * 32, instance_of("xenith-root-x")
    (True, None)
    """
    return part_of(name_label)[1]


def part_of(name_label: str) -> tuple[str, str | None]:
    """Tell which part of which instance a VM or VDI is, by its name.

    >>> part_of("xenith-rescue-config-" + "0" * 32), part_of("xenith-root-x")
    (('rescue-config', '00000000000000000000000000000000'), ('', None))
    """
    found = _OF_INSTANCE.fullmatch(name_label)
    return (found[1], found[2]) if found is not None and is_uuid(found[2]) else ("", None)


def is_complete_image(vdi: Mapping[str, Any]) -> bool:
    """Tell whether a VDI's record is that of a cached image whose import is done."""
    config = vdi["other_config"]
    return IMAGE_KEY in config and config.get(COMPLETE_KEY) == vdi["uuid"]


def is_half_import(vdi: Mapping[str, Any]) -> bool:
    """Tell whether a VDI is an image that is on its way, or did not come to its end."""
    config = vdi["other_config"]
    return IMAGE_KEY in config and COMPLETE_KEY not in config


def is_stray(vdi: Mapping[str, Any]) -> bool:
    """Tell whether a VDI is a half import, or a clone that did not come to its name."""
    return (
        IMAGE_KEY in vdi["other_config"]
        and instance_of(vdi["name_label"]) is None
        and not is_complete_image(vdi)
    )
