"""Bodies about server groups. Source: Compute API, "Server groups"."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from xenith.compute.schemas.types import Name
from xenith.http.versioned import REQUIRED, Field, versioned

_Policy = Literal["anti-affinity", "affinity"]
_AnyPolicy = Literal["anti-affinity", "affinity", "soft-anti-affinity", "soft-affinity"]
_PerHost = (
    Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    | Annotated[str, msgspec.Meta(pattern=r"^0*[1-9][0-9]{0,8}$")]
)


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a policy is bounded by."""

    max_server_per_host: _PerHost | msgspec.UnsetType = msgspec.UNSET


CREATE_SERVER_GROUP = versioned(
    "CreateServerGroup",
    [
        Field("name", Name, default=REQUIRED),
        Field(
            "policies",
            Annotated[list[_Policy], msgspec.Meta(min_length=1, max_length=1)],
            until=(2, 14),
            default=REQUIRED,
        ),
        Field(
            "policies",
            Annotated[list[_AnyPolicy], msgspec.Meta(min_length=1, max_length=1)],
            since=(2, 15),
            until=(2, 63),
            default=REQUIRED,
        ),
        Field("policy", _AnyPolicy, since=(2, 64), default=REQUIRED),
        Field("rules", Rules, since=(2, 64)),
    ],
    envelope="server_group",
)
