"""A cloud of images alone, its bytes in a directory of the test."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from xenith.blob import FileStore
from xenith.db import Database
from xenith.http import Site
from xenith.image.endpoints import service
from xenith.image.operations import Images

BYTES = {"Content-Type": "application/octet-stream"}


class Cloud:
    """Images behind their API."""

    def __init__(self, db: Database, world: Any, store: FileStore) -> None:
        self.db = db
        self.world = world
        self.store = store
        self.images = Images(db, world, store)
        self.site: Site | None = None

    async def ask(
        self, method: str, path: str, *, by: str | None = "member", **kwargs: Any
    ) -> httpx2.Response:
        """Ask once, as a caller named by token."""
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.site),
            base_url="http://cloud/image",
            headers={"X-Auth-Token": by} if by else {},
        ) as client:
            return await client.request(method, path, **kwargs)

    async def make(self, *, by: str = "member", **fields: Any) -> dict[str, Any]:
        """Make the record of an image."""
        body = {"disk_format": "raw", "container_format": "bare", **fields}
        answer = await self.ask("POST", "/v2/images", by=by, json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def upload(
        self, image_id: str, data: Any = b"bytes", *, by: str = "member", **headers: str
    ) -> httpx2.Response:
        path = f"/v2/images/{image_id}/file"
        return await self.ask("PUT", path, by=by, content=data, headers=BYTES | headers)

    async def make_active(self, data: bytes = b"bytes", **fields: Any) -> dict[str, Any]:
        image = await self.make(**fields)
        answer = await self.upload(image["id"], data, by=fields.get("by", "member"))
        assert answer.status_code == 204, answer.text
        return await self.show(image["id"], by=fields.get("by", "member"))

    async def show(self, image_id: str, *, by: str = "member") -> dict[str, Any]:
        answer = await self.ask("GET", f"/v2/images/{image_id}", by=by)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def names(self, *, by: str = "member", **query: Any) -> list[str]:
        """Give the names in a list, in its order."""
        answer = await self.ask("GET", "/v2/images", by=by, params=query)
        assert answer.status_code == 200, answer.text
        return [image["name"] for image in answer.json()["images"]]

    async def patch(
        self, image_id: str, *operations: Any, by: str = "member", media: str = "v2.1"
    ) -> httpx2.Response:
        return await self.ask(
            "PATCH",
            f"/v2/images/{image_id}",
            by=by,
            json=list(operations),
            headers={"Content-Type": f"application/openstack-images-{media}-json-patch"},
        )


@pytest.fixture
async def cloud(db, world, site_of, tmp_path) -> Cloud:
    made = Cloud(db, world, FileStore(tmp_path / "images"))
    made.site = site_of([service(made.images)])
    return made
