"""Bodies about schedules of images. Source: the extension ``rax-si-image-schedule``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


class ImageSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many images of a server are kept, and on which day of the week one is made, or each."""

    retention: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    day_of_week: (
        Literal["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"] | None
    ) = None


class ImageScheduleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule in its envelope."""

    image_schedule: ImageSchedule
