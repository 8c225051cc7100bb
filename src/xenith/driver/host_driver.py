"""One host's driver: what the compute service asks of a host, each method safe to repeat.

Only puts the parts together; each noun is a file of its own beside it. A fault of the host leaves
here as one of our errors, with the host's name in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

from xenith.core.errors import NotFound
from xenith.core.limits import CONSOLE_LOG_BYTES_MAX
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.driver.chains import Storage
from xenith.driver.connection import HostAddress, HostConnection, HostFacts
from xenith.driver.console import read_console_log
from xenith.driver.disks import Disks
from xenith.driver.events import EventStream
from xenith.driver.faults import Spoken
from xenith.driver.further_disks import FurtherDisks
from xenith.driver.image_cache import CacheCounts, ImageCache, OpenImage
from xenith.driver.image_claims import ImageClaims
from xenith.driver.inventory import CachedImage, Inventory
from xenith.driver.names import instance_of, is_rescue_disk, is_stray
from xenith.driver.power import HARD_TIMEOUT_S, WORDS, PowerAction, change_power
from xenith.driver.rescue import Rescues
from xenith.driver.snapshots import Snapshots
from xenith.driver.sweep import Sweep
from xenith.driver.vm_spec import VmSpec
from xenith.driver.vms import Vms

#: Hears (host id, instance id, power state) when a VM changed and we had not asked it to.
OnPower = Callable[[str, str, str], None]
#: Hears (host id, is up).
OnState = Callable[[str, bool], None]


class HostDriver:
    """Drives one host; power states are nova's words (running, paused, shutdown)."""

    def __init__(
        self,
        world: World,
        address: HostAddress,
        *,
        on_power: OnPower,
        on_state: OnState,
        open_image: OpenImage,
    ) -> None:
        self.address = address
        self._tasks = TaskOwner(f"driver {address.name}", world.clock)
        self._inventory = Inventory(
            lambda instance_id, power: on_power(address.id, instance_id, power)
        )
        self._events = EventStream(self._inventory)
        self._line = HostConnection(
            world,
            address,
            on_open=self._load,
            on_state=lambda is_up: on_state(address.id, is_up),
            watch=self._events.follow,
        )
        claims = ImageClaims(world, self._line, owner=address.id)
        self._images = ImageCache(
            self._line, self._inventory, open_image, self._tasks, world, claims
        )
        self._sweep = Sweep(world.clock, self._line, claims)
        self._disks = Disks(self._line, self._inventory, self._images)
        self._snapshots = Snapshots(self._line, self._inventory, self._disks)
        self._vms = Vms(self._line, self._inventory)
        #: Its repositories, for operators.
        self.storage = Storage(self._line)
        #: Rescue disks that no VM had when the host was last looked at: references by instance.
        self.loose_rescue_disks: dict[str, list[str]] = {}
        #: Disks that looked like nobody's at the last look, and may yet be somebody's.
        self.strays_left = 0
        self._further = FurtherDisks(world, self._line, self._inventory, self._disks, self._vms)
        self._rescues = Rescues(self._inventory, self._disks, self._vms)

    # -- the host

    async def start(self) -> None:
        """Begin to keep the line to the host; does not wait for it."""
        self._tasks.keep("line", self._line.run)

    async def stop(self) -> None:
        """Let the host go; its VMs run on."""
        await self._tasks.stop()
        await self._line.close()

    async def answered(self) -> None:
        """Wait until the host is up, or the first attempt to reach it has failed."""
        await self._line.answered()

    @property
    def is_up(self) -> bool:
        """Whether the host answers."""
        return self._line.is_up

    @property
    def down_reason(self) -> str:
        """Why it does not; empty when it does."""
        return self._line.down_reason

    @property
    def facts(self) -> HostFacts | None:
        """What the host said of itself when it was last reached."""
        return self._line.facts

    # -- a server's parts

    async def ensure_image(self, image_id: str, *, disk_format: str, size_bytes: int) -> None:
        """Have an image on the host; ``size_bytes`` is the image's file. Safe to repeat.

        Raises:
            Invalid: the image cannot become a disk.
            Unavailable: the host is away or refuses.
        """
        await self._images.ask(image_id, disk_format=disk_format, size_bytes=size_bytes)

    async def trim_images(self, *, idle_max_s: float, free_share: float) -> int:
        """Remove cached images that no disk stands on: idle ones, and more if room is short.

        Gives how many were removed.
        """
        return await self._images.trim(idle_max_s=idle_max_s, free_share=free_share)

    @property
    def images(self) -> Sequence[CachedImage]:
        """The images that the host has ready to be cloned."""
        return list(self._inventory.images.values())

    @property
    def image_counts(self) -> CacheCounts:
        """What became of its cache since this driver began."""
        return self._images.counts

    async def create_root_disk(self, spec: VmSpec) -> None:
        """Clone the image's disk and grow it to the flavor's size. Safe to repeat."""
        with self._spoken("make the root disk", spec.instance_id):
            await self._disks.create_root(spec)

    async def create_config_drive(self, spec: VmSpec) -> None:
        """Make and fill the config drive, if there is to be one. Safe to repeat."""
        with self._spoken("make the config drive", spec.instance_id):
            await self._disks.create_config(spec)

    async def create_flavor_disks(self, spec: VmSpec) -> None:
        """Make the swap and ephemeral disks, if there are to be any. Safe to repeat."""
        with self._spoken("make the swap and ephemeral disks", spec.instance_id):
            await self._further.create(spec)

    async def create_vm(self, spec: VmSpec) -> None:
        """Make the VM with its VBDs and VIFs, halted. Safe to repeat."""
        with self._spoken("make the VM", spec.instance_id):
            await self._vms.create(spec)

    async def start_vm(self, instance_id: str) -> str:
        """Start the VM with its processors stopped and tell its power state. Safe to repeat."""
        return await self.power(instance_id, "start_paused", timeout_s=HARD_TIMEOUT_S)

    async def run_vm(self, instance_id: str) -> str:
        """Let the VM's processors run and tell its power state. Safe to repeat."""
        return await self.power(instance_id, "unpause", timeout_s=HARD_TIMEOUT_S)

    async def delete_root_disk(self, instance_id: str) -> None:
        """Remove the root disk. Safe to repeat."""
        with self._spoken("remove the root disk", instance_id):
            await self._disks.delete_root(instance_id)

    async def delete_config_drive(self, instance_id: str) -> None:
        """Remove the config drive. Safe to repeat."""
        with self._spoken("remove the config drive", instance_id):
            await self._disks.delete_config(instance_id)

    async def delete_vm(self, instance_id: str) -> None:
        """Stop and remove the VM with its VBDs and VIFs. Safe to repeat."""
        with self._spoken("remove the VM", instance_id):
            await self._vms.delete(instance_id)

    async def destroy_instance(self, instance_id: str) -> None:
        """Remove all that the host has of an instance. Safe to repeat."""
        self._line.places  # noqa: B018 - a host never reached must not look empty
        with self._spoken("remove the server", instance_id):
            await self._vms.delete(instance_id)
            await asyncio.gather(
                self._disks.delete_root(instance_id),
                self._disks.delete_config(instance_id),
                self._snapshots.delete(instance_id),
                *(
                    self._disks.delete_further(instance_id, name)
                    for name in self._inventory.further_names(instance_id)
                ),
            )
        self._inventory.forget(instance_id)

    # -- the rescue of a server

    async def create_rescue_disks(self, spec: VmSpec) -> None:
        """Make what a halted VM is rescued with, of the image in ``spec``. Safe to repeat."""
        with self._spoken("make the rescue disk", spec.instance_id):
            await self._rescues.make(spec)

    async def attach_rescue(self, instance_id: str) -> None:
        """Have a halted VM boot from its rescue disk, its root disk beside it. Safe to repeat."""
        with self._spoken("attach the rescue disk", instance_id):
            await self._rescues.attach(instance_id)

    async def detach_rescue(self, instance_id: str) -> None:
        """Have a halted VM boot from its root disk. Safe to repeat."""
        with self._spoken("detach the rescue disk", instance_id):
            await self._rescues.detach(instance_id)

    async def delete_rescue_disks(self, instance_id: str) -> None:
        """Remove what the VM was rescued with. Safe to repeat."""
        with self._spoken("remove the rescue disk", instance_id):
            await self._rescues.delete(instance_id)

    # -- images of a server

    async def take_snapshot(self, instance_id: str, image_id: str) -> None:
        """Keep the root disk as it is now, for an image. Safe to repeat."""
        with self._spoken("snapshot the root disk", instance_id):
            await self._snapshots.take(instance_id, image_id)

    async def read_snapshot(self, instance_id: str) -> AsyncGenerator[bytes]:
        """Give the snapshot as a VHD that stands alone, piece by piece."""
        with self._spoken("give the snapshot", instance_id):
            async with contextlib.aclosing(self._snapshots.read(instance_id)) as pieces:
                async for piece in pieces:
                    yield piece

    async def delete_snapshot(self, instance_id: str) -> None:
        """Remove the snapshot. Safe to repeat."""
        with self._spoken("remove the snapshot", instance_id):
            await self._snapshots.delete(instance_id)

    # -- a server's life

    async def power(self, instance_id: str, action: PowerAction, timeout_s: float) -> str:
        """Bring the VM where ``action`` leads and tell its power state. Safe to repeat.

        ``timeout_s`` is what the guest gets for a clean shutdown or reboot; then its power is cut.

        Raises:
            NotFound: the host has no such VM.
            Conflict: the VM's state has no way there.
        """
        vm = self._vms.get(instance_id)
        held = self._inventory.held(instance_id)
        doing = action.removesuffix("_paused").replace("_", " ")
        with self._spoken(f"{doing} the VM", instance_id):
            state = await change_power(
                self._line.call, vm, action, state=held.power, timeout_s=timeout_s
            )
        if held.vm == vm:
            held.power = state
        return WORDS[state]

    async def resize(
        self,
        instance_id: str,
        *,
        ram_mib: int,
        vcpus: int,
        root_gib: int,
        swap_mib: int | None = None,
        ephemeral_gib: int | None = None,
    ) -> None:
        """Give a halted VM another size; its root disk grows and never shrinks. Safe to repeat.

        Swap and ephemeral disks stay as they are where their sizes are not known.

        Raises:
            NotFound: the host has no such VM.
            Conflict: the VM runs.
            Exhausted: the host has no room for the disk.
        """
        with self._spoken("resize the VM", instance_id):
            await self._vms.set_size(instance_id, ram_mib=ram_mib, vcpus=vcpus)
            await self._disks.grow_root(instance_id, root_gib)
            if swap_mib is not None and ephemeral_gib is not None:
                await self._further.resize(
                    instance_id, swap_mib=swap_mib, ephemeral_gib=ephemeral_gib
                )

    async def power_state(self, instance_id: str) -> str | None:
        """Ask the host for the VM's power state; None when it has no such VM."""
        held = self._inventory.instances.get(instance_id)
        if held is None or held.vm is None:
            return None
        try:
            with self._spoken("tell the power state", instance_id):
                state: str = await self._line.call("VM.get_power_state", held.vm)
        except NotFound:
            return None
        return WORDS.get(state, "nostate")

    async def console_log(self, instance_id: str, byte_count: int) -> str:
        """Read the end of the VM's serial console log."""
        vm = self._vms.get(instance_id)
        with self._spoken("give the console log", instance_id):
            return await read_console_log(self._line, vm, min(byte_count, CONSOLE_LOG_BYTES_MAX))

    # -- all servers of the host

    async def list_instances(self) -> dict[str, str]:
        """Ask the host for its VMs: power states by instance."""
        with Spoken(self.address.name, "list its VMs"):
            records: dict[str, Any] = await self._line.call("VM.get_all_records")
        for ref, record in records.items():
            self._inventory.vm_changed(ref, record)
        return {
            instance_id: WORDS.get(held.power, "nostate")
            for instance_id, held in self._inventory.instances.items()
            if held.vm in records
        }

    async def owned_instances(self) -> set[str]:
        """Ask the host of which instances it has anything: a VM, or only a disk.

        Sweeps up on the way what no instance can use: half imports and nameless clones. What is
        found of rescue disks that no VM has is kept in ``loose_rescue_disks``.
        """
        is_quiet = self._is_quiet()
        with Spoken(self.address.name, "list what it has"):
            vms, vdis = await asyncio.gather(
                self._line.call("VM.get_all_records"), self._line.call("VDI.get_all_records")
            )
        if is_quiet and self._is_quiet():
            strays = [ref for ref, vdi in vdis.items() if is_stray(vdi)]
            self.strays_left = await self._sweep([*strays, *self._inventory.doubles(vdis)], vdis)
        self.loose_rescue_disks = _loose_rescue_disks(vdis)
        owned: set[str] = set()
        for ref, record in (*vms.items(), *vdis.items()):
            name = record["name_label"]
            instance_id = instance_of(name)
            if instance_id is None:
                continue
            owned.add(instance_id)
            if not self._inventory.has(instance_id, ref):
                # A call that was given up did its work later: whoever removes it must look.
                self._inventory.doubt(name)
        return owned | {key for key, held in self._inventory.instances.items() if not held.is_empty}

    async def delete_disks(self, refs: Iterable[str]) -> None:
        """Remove disks that nobody uses; one that is gone is no error."""
        with Spoken(self.address.name, "remove loose disks"):
            for ref in refs:
                await self._disks.destroy(ref)

    async def _load(self) -> None:
        """Learn what the host holds, before anything is asked of it."""
        self._vms.forget_networks()
        records: Mapping[str, Any] = await self._line.call("VDI.get_all_records")
        strays = self._inventory.take_disks(records)
        await self._events.load(self._line.session)
        self.strays_left = await self._sweep(strays, records)

    def _is_quiet(self) -> bool:
        """Tell whether no disk is between being made and being named or marked."""
        return self._disks.nameless_count == 0 and not self._images.is_importing

    def spoken(self, doing: str) -> Spoken:
        """Give a block in which the host's refusals are raised as what they mean."""
        return Spoken(self.address.name, doing)

    def _spoken(self, doing: str, instance_id: str) -> Spoken:
        return Spoken(self.address.name, f"{doing} of instance {instance_id}")


def _loose_rescue_disks(vdis: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ref, vdi in vdis.items():
        instance_id = instance_of(vdi["name_label"])
        if instance_id is not None and is_rescue_disk(vdi["name_label"]) and not vdi["VBDs"]:
            found.setdefault(instance_id, []).append(ref)
    return found
