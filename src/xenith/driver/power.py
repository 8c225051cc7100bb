"""Power: which calls bring a VM from the state it is in to the one that is wanted.

A table and a short loop. The state in hand may be old, so the first call is a guess; when the
host says VM_BAD_POWER_STATE its word replaces ours and the table is read again. A guest that does
not shut down or reboot when asked has its power cut after a deadline.
Source: XenAPI, the power-state machine; nova maps a reboot of a halted VM to a start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from xenith.core.errors import Conflict, Unavailable
from xenith.xapi import XapiFault

PowerAction = Literal[
    "start",
    "start_paused",
    "stop",
    "stop_hard",
    "reboot",
    "reboot_hard",
    "pause",
    "unpause",
    "suspend",
    "resume",
]

#: XenAPI's states in nova's words.
WORDS = {
    "Running": "running",
    "Paused": "paused",
    "Halted": "shutdown",
    "Suspended": "suspended",
    "Crashed": "crashed",
}

_PLANS: dict[str, dict[str, tuple[str, ...]]] = {
    "start": {
        "halted": ("start",),
        "crashed": ("start",),
        "paused": ("unpause",),
        "suspended": ("resume",),
        "running": (),
    },
    # For a VM that must not run before it is written down where it is.
    "start_paused": {
        "halted": ("start_paused",),
        "crashed": ("start_paused",),
        "paused": (),
    },
    "stop": {
        "running": ("clean_shutdown",),
        "paused": ("hard_shutdown",),
        "suspended": ("hard_shutdown",),
        "crashed": ("hard_shutdown",),
        "halted": (),
    },
    "stop_hard": {
        "running": ("hard_shutdown",),
        "paused": ("hard_shutdown",),
        "suspended": ("hard_shutdown",),
        "crashed": ("hard_shutdown",),
        "halted": (),
    },
    "reboot": {
        "running": ("clean_reboot",),
        "paused": ("hard_reboot",),
        "suspended": ("hard_shutdown", "start"),
        "crashed": ("start",),
        "halted": ("start",),
    },
    "reboot_hard": {
        "running": ("hard_reboot",),
        "paused": ("hard_reboot",),
        "suspended": ("hard_shutdown", "start"),
        "crashed": ("start",),
        "halted": ("start",),
    },
    "pause": {"running": ("pause",), "paused": ()},
    "unpause": {"paused": ("unpause",), "running": ()},
    "suspend": {"running": ("suspend",), "suspended": ()},
    "resume": {"suspended": ("resume",), "running": ()},
}
#: The state, in XenAPI's word, that each action ends in.
_ENDS = {
    "start": "Running",
    "start_paused": "Paused",
    "stop": "Halted",
    "stop_hard": "Halted",
    "reboot": "Running",
    "reboot_hard": "Running",
    "pause": "Paused",
    "unpause": "Running",
    "suspend": "Suspended",
    "resume": "Running",
}
#: What a guest must take part in, and what is done when it does not.
_HARD = {"clean_shutdown": "hard_shutdown", "clean_reboot": "hard_reboot"}
#: Faults that say the guest, not the host, did not do it.
_GUEST_FAULTS = frozenset(
    {
        "VM_LACKS_FEATURE",
        "VM_LACKS_FEATURE_SHUTDOWN",
        "VM_MISSING_PV_DRIVERS",
        "VM_OLD_PV_DRIVERS",
        "VM_SHUTDOWN_TIMEOUT",
        "VM_FAILED_SHUTDOWN_ACK",
        "VM_CRASHED",
        "OTHER_OPERATION_IN_PROGRESS",
    }
)
#: Steps that are not a call of their own name without parameters. Source: XenAPI, `start_paused`
#: and `force` of VM.start and VM.resume.
_CALLS: dict[str, tuple[str, tuple[bool, bool]]] = {
    "start": ("start", (False, False)),
    "start_paused": ("start", (True, False)),
    "resume": ("resume", (False, False)),
}
#: Times that the host may correct our view of the state.
CORRECTIONS_MAX = 3
#: Seconds for what needs no guest. Source: nova gave a reboot 300 s.
HARD_TIMEOUT_S = 300.0

Call = Callable[..., Awaitable[object]]


async def change_power(
    call: Call, vm_ref: str, action: PowerAction, *, state: str, timeout_s: float
) -> str:
    """Bring a VM where ``action`` leads; ``state`` is the last known. Safe to repeat.

    Gives the state that it ends in, in XenAPI's word. ``timeout_s`` is the guest's, for clean ones.

    Raises:
        Conflict: there is no way from the state that the VM is in.
        XapiFault: the host refuses.
    """
    for _ in range(CORRECTIONS_MAX):
        steps = _PLANS[action].get(state.lower())
        if steps is None:
            raise Conflict(f"a VM that is {state.lower()} cannot {action}", state=state)
        try:
            for step in steps:
                await _step(call, vm_ref, step, timeout_s=timeout_s)
        except XapiFault as fault:
            if fault.code != "VM_BAD_POWER_STATE":
                raise
            state = fault.params[-1]
        else:
            return _ENDS[action]
    raise Conflict(f"the VM changes by itself and cannot {action} now", state=state)


async def _step(call: Call, vm_ref: str, step: str, *, timeout_s: float) -> None:
    hard = _HARD.get(step)
    name, parameters = _CALLS.get(step, (step, ()))
    method = f"VM.{name}"
    if hard is None:
        await call(method, vm_ref, *parameters, timeout_s=HARD_TIMEOUT_S)
        return
    try:
        await call(method, vm_ref, timeout_s=timeout_s)
    except XapiFault as fault:
        if fault.code not in _GUEST_FAULTS:
            raise
    except Unavailable:
        # No answer in time: a guest that does not listen, or a host that is away; the hard call
        # tells which, and is allowed over the one that still waits.
        pass
    else:
        return
    await call(f"VM.{hard}", vm_ref, timeout_s=HARD_TIMEOUT_S)
