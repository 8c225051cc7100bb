"""Images as compute shows them, over the image service's own rows."""

from __future__ import annotations

import pytest

SERVER = "22222222-0000-4000-8000-000000000001"


class Images:
    def __init__(self, cloud):
        self.cloud = cloud

    async def add(self, name, *, status="active", **properties):
        made = self.cloud.context.images
        image_id = await self.cloud.db.run(
            lambda tx: made.add_snapshot(
                tx,
                name=name,
                owner="p1",
                disk_format="vhd",
                min_disk_gib=1,
                min_ram_mib=64,
                properties=properties,
            )
        )
        from xenith.image.records import images

        await self.cloud.world.clock.advance(1.0)
        await self.cloud.db.run(lambda tx: tx.update(images, {"id": image_id}, status=status))
        return image_id

    async def ask(self, method, path="", *, by="member", at="2.1", **options):
        return await self.cloud.ask(method, f"/images{path}", by=by, at=at, **options)

    async def names(self, query="", path=""):
        answer = await self.ask("GET", f"{path}{query}")
        assert answer.status_code == 200, answer.text
        return [image["name"] for image in answer.json()["images"]]


@pytest.fixture
async def images(cloud):
    return Images(cloud)


async def test_an_image_is_shown_as_compute_does(images):
    image_id = await images.add("a", instance_uuid=SERVER, auto_disk_config="True", k="v")
    shown = (await images.ask("GET", f"/{image_id}")).json()["image"]
    assert (shown["status"], shown["progress"], shown["minDisk"], shown["minRam"]) == (
        "ACTIVE", 100, 1, 64,
    )  # fmt: skip
    assert shown["metadata"] == {"instance_uuid": SERVER, "auto_disk_config": "True", "k": "v"}
    assert shown["server"]["id"] == SERVER
    assert shown["OS-DCF:diskConfig"] == "AUTO"
    assert shown["OS-EXT-IMG-SIZE:size"] == 0
    assert [link["rel"] for link in shown["links"]] == ["self", "bookmark", "alternate"]
    (brief,) = (await images.ask("GET")).json()["images"]
    assert set(brief) == {"id", "name", "links"}
    (detailed,) = (await images.ask("GET", "/detail")).json()["images"]
    assert detailed == shown


async def test_lists_are_filtered_and_paged(images):
    await images.add("a", image_type="snapshot", instance_uuid=SERVER)
    await images.add("b", status="queued")
    await images.add("c", image_type="backup")
    assert await images.names() == ["c", "b", "a"]
    assert await images.names("?name=b") == ["b"]
    assert await images.names("?status=ACTIVE") == ["c", "a"]
    assert await images.names("?status=SAVING") == ["b"]
    assert await images.names("?status=nonsense") == []
    assert await images.names("?type=snapshot", "/detail") == ["a"]
    assert await images.names(f"?server={SERVER}") == ["a"]
    assert await images.names(f"?server=http://x/v2.1/servers/{SERVER}") == ["a"]
    assert await images.names("?minDisk=2") == []
    assert await images.names("?limit=0") == []
    shown = (await images.ask("GET", "?limit=2")).json()
    assert [image["name"] for image in shown["images"]] == ["c", "b"]
    (link,) = shown["images_links"]
    assert await images.names("?" + link["href"].partition("?")[2]) == ["a"]
    since = (await images.ask("GET", "/detail?name=c")).json()["images"][0]["updated"]
    assert await images.names(f"?changes-since={since}") == ["c"]
    assert (await images.ask("GET", "?changes-since=noon")).status_code == 400
    assert (await images.ask("GET", "?limit=-1")).status_code == 400


async def test_metadata_is_added_to_replaced_and_removed(images):
    image_id = await images.add("a", k="v")
    path = f"/{image_id}/metadata"
    body = {"metadata": {"l": "w"}}
    assert (await images.ask("POST", path, json=body)).json() == {"metadata": {"k": "v", "l": "w"}}
    assert (await images.ask("PUT", path, json=body)).json() == body
    item = {"meta": {"m": "x"}}
    assert (await images.ask("PUT", f"{path}/m", json=item)).json() == item
    assert (await images.ask("GET", f"{path}/m")).json() == item
    assert (await images.ask("PUT", f"{path}/other", json=item)).status_code == 400
    assert (await images.ask("DELETE", f"{path}/l")).status_code == 204
    assert (await images.ask("DELETE", f"{path}/l")).status_code == 404
    assert (await images.ask("GET", path)).json() == {"metadata": {"m": "x"}}
    # As the image service has it, and as it is found there.
    assert await images.names("?name=a") == ["a"]


async def test_an_image_is_deleted_and_what_is_none_is_not_found(images):
    image_id = await images.add("a")
    store = images.cloud.context.images._store = type(
        "Store", (), {"delete": staticmethod(lambda _name: _nothing())}
    )
    assert store is not None
    assert (await images.ask("DELETE", f"/{image_id}", by="reader")).status_code == 403
    assert (await images.ask("DELETE", f"/{image_id}")).status_code == 204
    for path in (f"/{image_id}", "/x", "/" + "9" * 37, f"/{image_id}/metadata"):
        assert (await images.ask("GET", path)).status_code == 404
    assert (await images.ask("DELETE", f"/{image_id}")).status_code == 404


async def _nothing() -> None:
    """Delete no bytes: there are none."""


async def test_what_upstream_has_ended_is_not_there(images):
    image_id = await images.add("a")
    assert (await images.ask("GET", at="2.36")).status_code == 404
    assert (await images.ask("GET", f"/{image_id}", at="2.36")).status_code == 404
    assert (await images.ask("GET", f"/{image_id}/metadata", at="2.38")).status_code == 200
    assert (await images.ask("GET", f"/{image_id}/metadata", at="2.39")).status_code == 404
