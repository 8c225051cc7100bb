"""The endpoint from which cells fetch images; their own signature is the credential."""

from __future__ import annotations

from xenith.compute.operations.cell_images import HEADER, CellImages
from xenith.compute.operations.operator import Operator
from xenith.core.errors import Invalid
from xenith.core.ids import is_uuid
from xenith.http import Call, Endpoint, Stream


async def open_image(call: Call[Operator]) -> Stream:
    """Stream an image's bytes to a cell."""
    if not is_uuid(call["image_id"]):
        raise Invalid("an image is named by its id")
    images: CellImages = call.service.cell_images
    return Stream(images.open(call.headers.get(HEADER.lower(), ""), call["image_id"]))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/cell-images/{image_id}",
        open_image,
        None,
        "cell_images.open",
        codes=(400, 403, 404),
    ),
)
