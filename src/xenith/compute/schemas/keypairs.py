"""Bodies about keypairs. Source: Compute API, "Keypairs"."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from xenith.compute.schemas.types import Text
from xenith.http.versioned import REQUIRED, Field, versioned

_Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9_-]([a-zA-Z0-9_ -]*[a-zA-Z0-9_-])?$"
    ),
]
#: From 2.92 on, names may look like addresses of mail.
_WideName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[a-zA-Z0-9_@.-]([a-zA-Z0-9_ @.-]*[a-zA-Z0-9_@.-])?$",
    ),
]
#: An RSA key of 16384 bits is some 2,800 characters; a certificate is longer.
_PublicKey = Annotated[str, msgspec.Meta(min_length=1, max_length=16384)]

CREATE_KEYPAIR = versioned(
    "CreateKeypair",
    [
        Field("name", _Name, until=(2, 91), default=REQUIRED),
        Field("name", _WideName, since=(2, 92), default=REQUIRED),
        Field("public_key", _PublicKey, until=(2, 91)),
        Field("public_key", _PublicKey, since=(2, 92), default=REQUIRED),
        Field("type", Literal["ssh", "x509"], since=(2, 2)),
        Field("user_id", Text, since=(2, 10)),
    ],
    envelope="keypair",
)
