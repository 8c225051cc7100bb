"""Types that several of compute's bodies share, with the bounds of the API.

Source: Compute API request schemas: names up to 255 printable characters without white space at
the ends, metadata keys and values up to 255, tags up to 60 without comma or slash.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

#: A name: 1 to 255 characters; white space at the ends is cut off as before 2.1's strictness.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\S")]
#: A text of up to 255 characters.
Text = Annotated[str, msgspec.Meta(max_length=255)]
#: A UUID in any of its written forms.
Uuid = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")
]
MetadataKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-_:. ]+$")
]
Metadata = dict[MetadataKey, Text]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=60, pattern=r"^[^,/]*$")]
#: A count that fits every database's integer.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
