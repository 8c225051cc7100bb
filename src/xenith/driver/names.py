"""What our objects on a host are called, so that each is found again by its name alone.

Every name is made of an id and nothing of a tenant's, so a step done twice names one thing. The
scheme may never change without a new prefix: hosts outlive releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenith.core.ids import is_uuid

#: Keys of ``other_config``.
INSTANCE_KEY = "xenith-instance"
IMAGE_KEY = "xenith-image"
#: Holds the image's own VDI uuid once its import is done: a clone has the key, not the uuid.
COMPLETE_KEY = "xenith-image-complete"

#: Holds the id of the image that a snapshot is to become.
SNAPSHOT_KEY = "xenith-snapshot-for"

_VM, _ROOT, _CONFIG, _SNAPSHOT, _IMAGE, _NETWORK = (
    "xenith-vm-",
    "xenith-root-",
    "xenith-config-",
    "xenith-snapshot-",
    "xenith-image-",
    "xenith-",
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


def image_name(image_id: str) -> str:
    """Name a cached image."""
    return _IMAGE + image_id


def network_name(network_id: str) -> str:
    """Name a network of the host."""
    return _NETWORK + network_id


def instance_of(name_label: str) -> str | None:
    """Tell which instance a VM or VDI is of, by its name.

    >>> instance_of("xenith-root-" + "0" * 32) == "0" * 32, instance_of("xenith-root-x")
    (True, None)
    """
    for prefix in (_VM, _ROOT, _CONFIG, _SNAPSHOT):
        if name_label.startswith(prefix):
            instance_id = name_label.removeprefix(prefix)
            return instance_id if is_uuid(instance_id) else None
    return None


def is_complete_image(vdi: Mapping[str, Any]) -> bool:
    """Tell whether a VDI's record is that of a cached image whose import is done."""
    config = vdi["other_config"]
    return IMAGE_KEY in config and config.get(COMPLETE_KEY) == vdi["uuid"]


def is_stray(vdi: Mapping[str, Any]) -> bool:
    """Tell whether a VDI is a half import, or a clone that did not come to its name."""
    return (
        IMAGE_KEY in vdi["other_config"]
        and instance_of(vdi["name_label"]) is None
        and not is_complete_image(vdi)
    )
