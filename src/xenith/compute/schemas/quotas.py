"""Bodies about quotas. Source: Compute API, "Quota sets" and "Quota class sets"."""

from __future__ import annotations

from typing import Annotated

import msgspec

from xenith.compute.schemas.servers import Boolean
from xenith.http.versioned import Field, versioned

#: A limit; -1 is none.
Limit = (
    Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
    | Annotated[str, msgspec.Meta(pattern=r"^(-1|[0-9]{1,9})$")]
)
#: Limits of networks, which the network service keeps: gone from 2.36 on, from classes at 2.50.
NETWORK_RESOURCES = (
    "fixed_ips",
    "floating_ips",
    "networks",
    "security_group_rules",
    "security_groups",
)
#: Limits of injected files: gone from 2.57 on.
FILE_RESOURCES = ("injected_file_content_bytes", "injected_file_path_bytes", "injected_files")
GROUP_RESOURCES = ("server_group_members", "server_groups")
OTHER_RESOURCES = ("cores", "instances", "key_pairs", "metadata_items", "ram")

UPDATE_QUOTA_SET = versioned(
    "UpdateQuotaSet",
    [
        *(Field(name, Limit) for name in OTHER_RESOURCES + GROUP_RESOURCES),
        *(Field(name, Limit, until=(2, 35)) for name in NETWORK_RESOURCES),
        *(Field(name, Limit, until=(2, 56)) for name in FILE_RESOURCES),
        Field("force", Boolean),
    ],
    envelope="quota_set",
)

UPDATE_QUOTA_CLASS_SET = versioned(
    "UpdateQuotaClassSet",
    [
        *(Field(name, Limit) for name in OTHER_RESOURCES),
        *(Field(name, Limit, since=(2, 50)) for name in GROUP_RESOURCES),
        *(Field(name, Limit, until=(2, 49)) for name in NETWORK_RESOURCES),
        *(Field(name, Limit, until=(2, 56)) for name in FILE_RESOURCES),
    ],
    envelope="quota_class_set",
)
