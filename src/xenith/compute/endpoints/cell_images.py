"""Where cells fetch images and bring them; their own signature is the credential."""

from __future__ import annotations

from xenith.compute.operations.cell_images import HEADER, CellImages
from xenith.compute.operations.operator import Operator
from xenith.core.errors import Invalid
from xenith.core.ids import is_uuid
from xenith.http import Call, Endpoint, Stream


async def open_image(call: Call[Operator]) -> Stream:
    """Stream an image's bytes to a cell."""
    images: CellImages = call.service.cell_images
    return Stream(images.open(_word(call), _image_id(call)))


async def store_image(call: Call[Operator]) -> None:
    """Take the bytes of a server's image from its cell."""
    images: CellImages = call.service.cell_images
    await images.store(
        _word(call), _image_id(call), call.chunks, rotation=call.asked_int("rotation")
    )


async def drop_image(call: Call[Operator]) -> None:
    """Hear from a cell that a server's image came to nothing."""
    images: CellImages = call.service.cell_images
    await images.drop(_word(call), _image_id(call))


def _word(call: Call[Operator]) -> str:
    return call.headers.get(HEADER.lower(), "")


def _image_id(call: Call[Operator]) -> str:
    if not is_uuid(call["image_id"]):
        raise Invalid("an image is named by its id")
    return call["image_id"]


_PATH = "/v1/cell-images/{image_id}"
ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        open_image,
        None,
        "cell_images.open",
        codes=(400, 403, 404),
    ),
    Endpoint(
        "PUT",
        _PATH,
        store_image,
        None,
        "cell_images.store",
        204,
        media_types=("application/octet-stream",),
        is_stream=True,
        codes=(400, 403, 404, 413, 503),
    ),
    Endpoint("DELETE", _PATH, drop_image, None, "cell_images.drop", 204, codes=(400, 403)),
)
