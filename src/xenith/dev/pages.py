"""Pages beside the services: is it well, what does it offer, what does it measure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from xenith.dev.metrics import MetricsPage
from xenith.http import Answer
from xenith.http.openapi import document

if TYPE_CHECKING:
    from xenith.dev.cloud import Cloud

Page = tuple[str, Callable[[], Awaitable[Answer]]]


def pages(cloud: Cloud) -> Sequence[Page]:
    """Give the pages of a cloud."""
    kept: list[bytes] = []

    async def health() -> Answer:
        if not cloud.is_healthy:
            return Answer({"status": "starting"}, status=503)
        return Answer({"status": "ok"})

    async def openapi() -> Answer:
        if not kept:
            kept.append(msgspec.json.encode(document(cloud.services, site_url=cloud.site_url)))
        return Answer(kept[0])

    metrics = MetricsPage(cloud.world, cells=cloud.list_cells, watch=cloud.watch)
    return (("/healthz", health), ("/openapi.json", openapi), ("/metrics", metrics))
