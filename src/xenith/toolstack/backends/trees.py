"""The xenstore of a host without Xen: one store, and in it a tree for each domain.

    /local/domain/<domid>               the host's; the guest reads it
    /local/domain/<domid>/vm-data …     the guest's to write, with the rest of ``GUEST_DIRECTORIES``

It is the one truth of what a running domain has there: simulated guests, real ones and the XenAPI
server all look at it. It ends with our process, as xenstored's does with its host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenith.core.log import logger
from xenith.toolstack.backends import BackendError
from xenith.xenstore import Connection, Permission, Store, XenstoreError, control_connection
from xenith.xenstore.edits import plant
from xenith.xenstore.nodes import READ
from xenith.xenstore.paths import check, child, domain_path, name
from xenith.xenstore.store import CONTROL_DOMID

#: Source: xenopsd, the directories that a domain is given to write to.
GUEST_DIRECTORIES = ("attr", "control", "data", "drivers", "error", "messages", "vm-data")
#: What the host wrote when it started the domain; a domain that begins again has it again.
HOST_PREFIXES = ("vm-data/", "FIST/")
_log = logger("toolstack.xenstore")


class DomainTrees:
    """The trees of one host's domains, by VM uuid."""

    def __init__(self, on_guest_change: Callable[[str], None]) -> None:
        """Make an empty store.

        ``on_guest_change`` is told the VM of a guest that has changed something.
        """
        self.store = Store(on_guest_change=self._hear)
        self._on_guest_change = on_guest_change
        self._tool = control_connection(self.store)
        self._tool.mkdir("/local/domain")
        self._domids: dict[str, int] = {}
        self._vms: dict[int, str] = {}

    def begin(self, vm_uuid: str, domid: int, *, label: str, keys: Mapping[str, str]) -> None:
        """Make the tree of a domain that is about to run; one that it had before goes."""
        self.end(vm_uuid)
        self._domids[vm_uuid] = domid
        self._vms[domid] = vm_uuid
        self.store.create_domain(domid)
        home = domain_path(domid)
        own = {"name": label, "domid": str(domid), "vm": f"/vm/{vm_uuid}"}
        values = {}
        for key, value in (dict(keys) | own).items():
            try:
                check(f"{home}/{key}")
            except XenstoreError:
                # A name that xenstore cannot have is no reason for a VM not to start.
                _log.warning("a key is left out", vm=vm_uuid, key=key[:100])
            else:
                values[key] = _encode(value)
        theirs = (Permission(domid, 0),)
        permissions = {"": (Permission(CONTROL_DOMID, 0), Permission(domid, READ))}
        plant(
            self.store,
            home,
            values=values,
            permissions=permissions | dict.fromkeys(GUEST_DIRECTORIES, theirs),
        )
        self.store.introduce(domid)

    def renew(self, vm_uuid: str, domid: int) -> None:
        """Begin again under a new domid, with what the host gave: the domain has rebooted."""
        found = self.read(vm_uuid)
        kept = {key: value for key, value in found.items() if key.startswith(HOST_PREFIXES)}
        self.begin(vm_uuid, domid, label=found.get("name", ""), keys=kept)

    def end(self, vm_uuid: str) -> None:
        """Remove the tree of a domain that is gone; one that has none is no error."""
        domid = self._domids.pop(vm_uuid, None)
        if domid is None:
            return
        del self._vms[domid]
        if domid in self.store.domains:
            self._tool.rm(domain_path(domid))
            self.store.release(domid)

    def has(self, vm_uuid: str) -> bool:
        """Tell whether a domain has a tree: it has while it runs."""
        return vm_uuid in self._domids

    def read(self, vm_uuid: str) -> dict[str, str]:
        """Give a domain's keys by their paths below its own, and their values as text.

        One that has no tree has none.

        Directories are no keys: what has no value, and has children or is there for the guest.
        """
        if vm_uuid not in self._domids:
            return {}
        home = domain_path(self._domids[vm_uuid])
        found = {}
        waiting = [home]
        while waiting:
            path = waiting.pop()
            node = self._tool.directory(path)
            waiting += [child(path, each) for each in reversed(node.children)]
            key = path[len(home) + 1 :]
            if node.value or not (node.children or key in ("", *GUEST_DIRECTORIES)):
                found[key] = node.value.decode("utf-8", "replace")
        return found

    def get(self, vm_uuid: str, key: str) -> str:
        """Give one key's value, empty where it has none."""
        try:
            value = self._tool.read(f"{domain_path(self._domids[vm_uuid])}/{key}")
        except (KeyError, XenstoreError):
            return ""
        return value.decode("utf-8", "replace")

    def write(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Write keys of a domain, all of them or none; None removes one and those below it.

        Raises:
            BackendError: INVALID_VALUE, a key that xenstore cannot have; VM_BAD_POWER_STATE, the
                domain has no tree.
        """
        if vm_uuid not in self._domids:
            raise BackendError("VM_BAD_POWER_STATE", vm_uuid, "running", "halted")
        home = domain_path(self._domids[vm_uuid])
        number = self._tool.transaction_start()
        try:
            for key, value in changes.items():
                self._write(f"{home}/{key}", value, number)
        except XenstoreError as error:
            self._tool.transaction_end(number, is_commit=False)
            raise BackendError("INVALID_VALUE", "xenstore_data", error.name) from error
        self._tool.transaction_end(number, is_commit=True)

    def guest(self, vm_uuid: str) -> Connection:
        """Connect as a guest, with its rights and quotas."""
        domain = self.store.domains[self._domids[vm_uuid]]
        return Connection(self.store, domain, lambda _path, _token: None)

    def _write(self, path: str, value: str | None, number: int) -> None:
        if value is not None:
            self._tool.write(path, _encode(value), transaction_id=number)
        elif name(path) in GUEST_DIRECTORIES:
            # The directory itself stays the guest's.
            for each in self._tool.directory(path, transaction_id=number).children:
                self._tool.rm(child(path, each), transaction_id=number)
        else:
            try:
                self._tool.rm(path, transaction_id=number)
            except XenstoreError as error:
                if error.name != "ENOENT":  # nothing above it either
                    raise

    def _hear(self, domid: int) -> None:
        vm_uuid = self._vms.get(domid)
        if vm_uuid is not None:
            self._on_guest_change(vm_uuid)


def kept_by_host(keys: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Give the keys that a domain begins with, as they are after changes that the host made."""
    kept = dict(keys)
    for path, value in changes.items():
        if value is None:
            kept = {
                key: text
                for key, text in kept.items()
                if key != path and not key.startswith(f"{path}/")
            }
        elif path.startswith(HOST_PREFIXES):
            kept[path] = value
    return kept


def _encode(value: str) -> bytes:
    return value.encode("utf-8", "replace")
