"""Bodies about flavors, their extra specs and who may use them. Source: Compute API, "Flavors"."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from xenith.compute.schemas.servers import Boolean
from xenith.compute.schemas.types import Count, Name, Text
from xenith.http.versioned import REQUIRED, Field, versioned

#: Sizes come as numbers or as words of digits.
Digits = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}$")]
Size = Count | Digits
Positive = (
    Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    | Annotated[str, msgspec.Meta(pattern=r"^0*[1-9][0-9]{0,8}$")]
)
FlavorId = (
    Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=255,
            pattern=r"^[a-zA-Z0-9._-]([a-zA-Z0-9. _-]*[a-zA-Z0-9._-])?$",
        ),
    ]
    | Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    | None
)
Factor = (
    Annotated[float, msgspec.Meta(gt=0, le=3.40282e38)]
    | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,30}(\.[0-9]{1,30})?$")]
)
Description = Annotated[str, msgspec.Meta(max_length=65535)] | None
SpecName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-_:.]+$")
]
ExtraSpecs = dict[SpecName, Text]

CREATE_FLAVOR = versioned(
    "CreateFlavor",
    [
        Field("name", Name, default=REQUIRED),
        Field("id", FlavorId),
        Field("ram", Positive, default=REQUIRED),
        Field("vcpus", Positive, default=REQUIRED),
        Field("disk", Size, default=REQUIRED),
        Field("OS-FLV-EXT-DATA:ephemeral", Size, "ephemeral"),
        Field("swap", Size),
        Field("rxtx_factor", Factor),
        Field("os-flavor-access:is_public", Boolean, "is_public"),
        Field("description", Description, since=(2, 55)),
    ],
    envelope="flavor",
)

UPDATE_FLAVOR = versioned(
    "UpdateFlavor", [Field("description", Description, default=REQUIRED)], envelope="flavor"
)


class ExtraSpecsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Extra specs to add or change."""

    extra_specs: ExtraSpecs


#: One extra spec under its own name.
ExtraSpecBody: Any = Annotated[ExtraSpecs, msgspec.Meta(min_length=1, max_length=1)]


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of the actions `addTenantAccess` and `removeTenantAccess`."""

    tenant: Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9_-]+$")]
