"""The states of a server, and what each action asks for and leads to.

Source: Compute API guide, "Server concepts"; the table of vm_state, task_state and status.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenith.driver import PowerAction

#: OS-EXT-STS:power_state. Source: Compute API, "Show Server Details".
NOSTATE, RUNNING, PAUSED, SHUTDOWN, CRASHED, SUSPENDED = 0, 1, 3, 4, 6, 7

#: The driver's words for the same.
POWER_NUMBERS = {
    "nostate": NOSTATE,
    "running": RUNNING,
    "paused": PAUSED,
    "shutdown": SHUTDOWN,
    "crashed": CRASHED,
    "suspended": SUSPENDED,
}

#: And back again.
WORDS = {number: word for word, number in POWER_NUMBERS.items()}

#: The vm_state that a power state leads to when a guest changes it by itself.
VM_STATE_OF_POWER = {
    "running": "active",
    "paused": "paused",
    "shutdown": "stopped",
    "crashed": "stopped",
    "suspended": "suspended",
}

_ACTIVE_TASKS = {
    "rebooting": "REBOOT",
    "reboot_pending": "REBOOT",
    "reboot_started": "REBOOT",
    "rebooting_hard": "HARD_REBOOT",
    "reboot_pending_hard": "HARD_REBOOT",
    "reboot_started_hard": "HARD_REBOOT",
    "updating_password": "PASSWORD",
    "rebuilding": "REBUILD",
    "rebuild_block_device_mapping": "REBUILD",
    "rebuild_spawning": "REBUILD",
    "migrating": "MIGRATING",
    "resize_prep": "RESIZE",
    "resize_migrating": "RESIZE",
    "resize_migrated": "RESIZE",
    "resize_finish": "RESIZE",
}
_STATUSES: dict[str, tuple[str, dict[str, str]]] = {
    "building": ("BUILD", {}),
    "active": ("ACTIVE", _ACTIVE_TASKS),
    "stopped": (
        "SHUTOFF",
        {task: status for task, status in _ACTIVE_TASKS.items() if status in ("REBUILD", "RESIZE")},
    ),
    "paused": ("PAUSED", {"migrating": "MIGRATING"}),
    "suspended": ("SUSPENDED", {}),
    "rescued": ("RESCUE", {}),
    "resized": ("VERIFY_RESIZE", {"resize_reverting": "REVERT_RESIZE"}),
    "error": (
        "ERROR",
        {task: status for task, status in _ACTIVE_TASKS.items() if status == "REBUILD"},
    ),
    "deleted": ("DELETED", {}),
    "soft-delete": ("SOFT_DELETED", {}),
    "shelved": ("SHELVED", {}),
    "shelved_offloaded": ("SHELVED_OFFLOADED", {}),
}
STATUSES = frozenset(
    status for default, tasks in _STATUSES.values() for status in (default, *tasks.values())
)


def status_of(vm_state: str, task_state: str | None) -> str:
    """Give the status that tenants see.

    >>> status_of("active", "rebooting"), status_of("stopped", None), status_of("x", None)
    ('REBOOT', 'SHUTOFF', 'UNKNOWN')
    """
    default, tasks = _STATUSES.get(vm_state, ("UNKNOWN", {}))
    return tasks.get(task_state or "", default)


def vm_states_of(status: str) -> list[tuple[str, list[str] | None, list[str]]]:
    """Give what a status may stand for: vm_state, its task_states (None: any but the last list).

    >>> vm_states_of("REBOOT")[0][0]
    'active'
    """
    found: list[tuple[str, list[str] | None, list[str]]] = []
    for vm_state, (default, tasks) in _STATUSES.items():
        if default == status:
            found.append((vm_state, None, list(tasks)))
        named = [task for task, meant in tasks.items() if meant == status]
        if named:
            found.append((vm_state, named, []))
    return found


@dataclass(frozen=True)
class Transition:
    """What an action asks of a server and does to it."""

    #: The name in the list of instance actions.
    action: str
    #: vm_states from which it may start.
    vm_states: frozenset[str]
    #: The task_state while it runs.
    task_state: str
    #: What the driver is told.
    power_action: PowerAction
    #: The vm_state it ends in.
    vm_state: str
    #: task_states besides none from which it may start.
    task_states: frozenset[str] = frozenset()


def _from(*names: str) -> frozenset[str]:
    return frozenset(names)


#: Source: Compute API guide, the table of actions; nova's checks of instance state.
TRANSITIONS: dict[str, Transition] = {
    "os-start": Transition("start", _from("stopped"), "powering-on", "start", "active"),
    "os-stop": Transition("stop", _from("active", "error"), "powering-off", "stop", "stopped"),
    "pause": Transition("pause", _from("active"), "pausing", "pause", "paused"),
    "unpause": Transition("unpause", _from("paused"), "unpausing", "unpause", "active"),
    "suspend": Transition("suspend", _from("active"), "suspending", "suspend", "suspended"),
    "resume": Transition("resume", _from("suspended"), "resuming", "resume", "active"),
    "reboot_soft": Transition("reboot", _from("active"), "rebooting", "reboot", "active"),
    "reboot_hard": Transition(
        "reboot",
        _from("active", "stopped", "paused", "suspended", "error"),
        "rebooting_hard",
        "reboot_hard",
        "active",
        _from(
            "rebooting",
            "reboot_pending",
            "reboot_started",
            "rebooting_hard",
            "reboot_pending_hard",
            "reboot_started_hard",
            "pausing",
            "unpausing",
            "suspending",
            "resuming",
        ),
    ),
}
