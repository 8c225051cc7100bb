"""What a host is, as opposed to how full it is: shared by all hosts bought and set up alike.

A fleet of 50,000 hosts has a few dozen kinds. A filter on properties is therefore asked once per
kind and request shape, remembered, and spread over the hosts by their kind's number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

#: Answers remembered, one per filter and distinct set of properties asked for; oldest go first.
ANSWERS_KEPT_MAX = 256


class HostProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The properties that hosts of a kind share."""

    #: Nested as the host reports them: ``{"cpu_info": {"features": "vmx aes"}}``.
    capabilities: Mapping[str, Any] = {}
    #: Placement's traits, ``HW_CPU_X86_AVX``.
    traits: frozenset[str] = frozenset()
    #: The metadata of each aggregate that the host is in.
    aggregates: tuple[Mapping[str, str], ...] = ()
    #: What can run here: (architecture, hypervisor type, VM mode), in canonical words.
    supported: tuple[tuple[str, str, str], ...] = ()


class ProfileTable:
    """Profiles by number, and remembered answers about them.

    >>> profiles = ProfileTable()
    >>> old = profiles.intern(HostProfile(traits=frozenset({"OLD"})))
    >>> new = profiles.intern(HostProfile(traits=frozenset({"NEW"})))
    >>> profiles.intern(HostProfile(traits=frozenset({"OLD"}))) == old
    True
    >>> profiles.allowed("is new", lambda profile: "NEW" in profile.traits).tolist()
    [False, True]
    """

    def __init__(self) -> None:
        self._codes: dict[bytes, int] = {}
        self._profiles: list[HostProfile] = []
        self._answers: dict[Hashable, NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self._profiles)

    def __getitem__(self, code: int) -> HostProfile:
        return self._profiles[code]

    def intern(self, profile: HostProfile) -> int:
        """Give the profile's number, the same for equal profiles."""
        key = msgspec.json.encode(profile, order="deterministic")
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = len(self._profiles)
            self._profiles.append(profile)
        return code

    def allowed(self, key: Hashable, test: Callable[[HostProfile], bool]) -> NDArray[np.bool_]:
        """Answer ``test`` for every profile; ``key`` must say all that the test depends on."""
        answer = self._answers.pop(key, None)
        if answer is None:
            answer = np.zeros(0, np.bool_)
        if len(answer) < len(self._profiles):  # profiles only ever join at the end
            more = [test(profile) for profile in self._profiles[len(answer) :]]
            answer = np.concatenate([answer, np.array(more, np.bool_)])
        self._answers[key] = answer
        if len(self._answers) > ANSWERS_KEPT_MAX:
            del self._answers[next(iter(self._answers))]
        return answer
