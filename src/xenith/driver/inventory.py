"""What one host holds of ours: VMs and disks by instance, cached images, and what is astray.

Loaded whole when the host is reached, kept by events and by our own calls; so that a step need not
ask the host whether its thing is there. Only where a call was begun and its end is not known must
the next attempt look: ``begin`` and ``is_begun`` keep account of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xenith.core.errors import NotFound
from xenith.driver.names import (
    IMAGE_KEY,
    INSTANCE_KEY,
    config_name,
    instance_of,
    is_complete_image,
    is_stray,
    main_names,
    root_name,
    snapshot_name,
)
from xenith.driver.power import WORDS


@dataclass(slots=True)
class Held:
    """What the host holds of one instance, by reference."""

    vm: str | None = None
    #: XenAPI's word.
    power: str = ""
    #: Whether the VM has all of its VBDs and VIFs, as far as this process made them.
    is_vm_whole: bool = False
    root: str | None = None
    config: str | None = None
    #: Whether the config drive's bytes are in it, as far as this process put them there.
    is_config_whole: bool = False
    #: The root disk as it was when an image of it was asked for.
    snapshot: str | None = None
    #: Its further disks by name: swap, ephemeral, those that it is rescued with.
    others: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        disks = (self.root, self.config, self.snapshot, *self.others.values())
        return self.vm is None and not any(disks)


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image whose import is done."""

    vdi: str
    size_bytes: int


class Inventory:
    """One host's holdings; hears the events of its VMs."""

    def __init__(self, on_power: Callable[[str, str], None]) -> None:
        self.instances: dict[str, Held] = {}
        self.images: dict[str, CachedImage] = {}
        self._on_power = on_power
        self._instance_of_vm: dict[str, str] = {}
        self._begun: set[str] = set()

    def held(self, instance_id: str) -> Held:
        """Give what is held of an instance, to be written to."""
        held = self.instances.get(instance_id)
        if held is None:
            held = self.instances[instance_id] = Held()
        return held

    def forget(self, instance_id: str) -> None:
        """Forget an instance of which nothing is left."""
        held = self.instances.pop(instance_id, None)
        if held is not None and held.vm is not None:
            self._instance_of_vm.pop(held.vm, None)

    @contextmanager
    def begin(self, name: str) -> Iterator[bool]:
        """Stand around the calls that make ``name``; tells whether one before had no known end."""
        was_begun = name in self._begun
        self._begun.add(name)
        yield was_begun
        # Reached only when the block came to its end: what it made is known.
        self._begun.discard(name)

    def is_begun(self, name: str) -> bool:
        """Tell whether calls that make ``name`` were begun and their end is not known."""
        return name in self._begun

    def doubt(self, name: str) -> None:
        """Say that the host may have something of this name that is not known here."""
        self._begun.add(name)

    def has(self, instance_id: str, ref: str) -> bool:
        """Tell whether an object is known to be the instance's."""
        held = self.instances.get(instance_id)
        return held is not None and ref in (
            held.vm,
            held.root,
            held.config,
            held.snapshot,
            *held.others.values(),
        )

    def get_further(self, instance_id: str, name: str) -> str:
        """Give the reference of one of an instance's further disks.

        Raises:
            NotFound: there is none.
        """
        ref = self.held(instance_id).others.get(name)
        if ref is None:
            raise NotFound(f"there is no disk {name}", kind="NoDisk")
        return ref

    def further_names(self, instance_id: str) -> list[str]:
        """List the names of an instance's further disks, also of those that are in doubt."""
        begun = {name for name in self._begun if instance_of(name) == instance_id}
        return sorted({*self.held(instance_id).others, *begun}.difference(main_names(instance_id)))

    def settle(self, *names: str) -> None:
        """Say that the host was asked, so that no end is unknown."""
        self._begun.difference_update(names)

    # -- VMs

    def has_vm(self, instance_id: str, ref: str, *, power: str) -> None:
        """Note an instance's VM and its state, without telling anybody."""
        held = self.held(instance_id)
        if held.vm is not None and held.vm != ref:
            self._instance_of_vm.pop(held.vm, None)
        held.vm, held.power = ref, power
        self._instance_of_vm[ref] = instance_id

    def drop_vm(self, instance_id: str) -> None:
        """Note that an instance's VM was removed, without telling anybody."""
        held = self.held(instance_id)
        if held.vm is not None:
            self._instance_of_vm.pop(held.vm, None)
        held.vm, held.power, held.is_vm_whole = None, "", False

    def vm_changed(self, ref: str, record: Mapping[str, Any]) -> None:
        """Hear what a VM is now; those that are not ours are passed over."""
        instance_id = record["other_config"].get(INSTANCE_KEY)
        if instance_id is None or record["is_a_snapshot"] or record["is_a_template"]:
            return
        known = self.instances.get(instance_id)
        before = known.power if known is not None and known.vm == ref else ""
        self.has_vm(instance_id, ref, power=record["power_state"])
        if before not in ("", record["power_state"]):
            self._on_power(instance_id, WORDS.get(record["power_state"], "nostate"))

    def vm_gone(self, ref: str) -> None:
        """Hear that a VM is no more; of one that we removed nothing is known by now."""
        instance_id = self._instance_of_vm.pop(ref, None)
        if instance_id is None:
            return
        held = self.instances[instance_id]
        held.vm, held.power, held.is_vm_whole = None, "", False
        if held.is_empty:
            self.forget(instance_id)
        self._on_power(instance_id, "nostate")

    def vms_are(self, refs: set[str]) -> None:
        """Hear which VMs there are in all."""
        for ref in sorted(self._instance_of_vm.keys() - refs):
            self.vm_gone(ref)

    # -- disks

    def take_disks(self, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Take all VDIs over, replacing what was known; gives those that nobody can use.

        Those are imports and clones that did not come to their end, and doubles of one disk: of
        two, the one that a VM has is kept.
        """
        for held in self.instances.values():
            held.root = held.config = held.snapshot = None
            held.others.clear()
        self.images.clear()
        strays: list[str] = []
        for ref, record in sorted(records.items(), key=_precedence):
            instance_id = instance_of(record["name_label"])
            if instance_id is not None:
                if not self._take_disk(instance_id, ref, record["name_label"]):
                    strays.append(ref)
            elif is_complete_image(record):
                if not self._take_image(ref, record):
                    strays.append(ref)
            elif is_stray(record):
                strays.append(ref)
        return strays

    def _take_disk(self, instance_id: str, ref: str, name: str) -> bool:
        held = self.held(instance_id)
        if name == root_name(instance_id) and held.root is None:
            held.root = ref
        elif name == config_name(instance_id) and held.config is None:
            held.config, held.is_config_whole = ref, False
        elif name == snapshot_name(instance_id) and held.snapshot is None:
            held.snapshot = ref
        elif name not in main_names(instance_id) and name not in held.others:
            held.others[name] = ref
        else:
            return False
        return True

    def _take_image(self, ref: str, record: Mapping[str, Any]) -> bool:
        image_id = record["other_config"][IMAGE_KEY]
        known = self.images.setdefault(image_id, CachedImage(ref, int(record["virtual_size"])))
        return known.vdi == ref

    def doubles(self, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """List cached images beside the one that is cloned from.

        An import that was given up may come to its end after another has. All who have the
        repository keep the same one.
        """
        kept: dict[str, str] = {}
        doubles: list[str] = []
        for ref, record in sorted(records.items(), key=_precedence):
            if not is_complete_image(record):
                continue
            image_id = record["other_config"][IMAGE_KEY]
            if kept.setdefault(image_id, ref) != ref:
                doubles.append(ref)
            elif image_id in self.images:
                self.images[image_id] = CachedImage(ref, int(record["virtual_size"]))
        return doubles


def _precedence(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Order disks of one name: one that a VM has comes first."""
    return not item[1]["VBDs"], item[1]["uuid"]
