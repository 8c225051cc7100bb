"""Bodies about services. Source: Compute API, "Compute services"."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from xenith.compute.schemas.servers import Boolean
from xenith.compute.schemas.types import Name

_Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class ServiceOfHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service by its host's name and binary, to be enabled or disabled; until 2.52."""

    host: Name
    binary: Name


class ServiceReason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same, to be disabled with a reason."""

    host: Name
    binary: Name
    disabled_reason: _Reason


class ServiceForcedDown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same, to be held for down or no longer."""

    host: Name
    binary: Name
    forced_down: Boolean


class ServiceUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change of a service; from 2.53 on."""

    status: Literal["enabled", "disabled"] | msgspec.UnsetType = msgspec.UNSET
    disabled_reason: _Reason | msgspec.UnsetType = msgspec.UNSET
    forced_down: Boolean | msgspec.UnsetType = msgspec.UNSET
