"""What official clients and tempest look for in images beyond the fields of the reference."""

from __future__ import annotations

import pytest


async def test_an_image_with_bytes_names_its_store_as_the_list_of_stores_does(cloud) -> None:
    listed = (await cloud.ask("GET", "/v2/info/stores")).json()["stores"]
    empty = await cloud.make()
    assert "stores" not in empty
    image = await cloud.make_active()
    assert image["stores"] == listed[0]["id"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_image_without_an_id_is_not_found(cloud, method: str) -> None:
    answer = await cloud.ask(method, "/v2/images/")
    assert answer.status_code == 404


async def test_the_version_document_answers_with_and_without_its_slash(cloud) -> None:
    assert (await cloud.ask("GET", "/v2/", by=None)).status_code == 300
    assert (await cloud.ask("GET", "/v2", by=None)).status_code == 300
    assert (await cloud.ask("GET", "/", by=None)).status_code == 300
