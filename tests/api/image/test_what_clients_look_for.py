"""What official clients and tempest look for in images beyond the fields of the reference."""

from __future__ import annotations

import pytest


async def test_one_store_needs_no_name(cloud) -> None:
    """A list of stores would have to be in each image, where the SDK takes it for a property."""
    assert (await cloud.ask("GET", "/v2/info/stores")).status_code == 404
    assert "stores" not in await cloud.make_active()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_image_without_an_id_is_not_found(cloud, method: str) -> None:
    answer = await cloud.ask(method, "/v2/images/")
    assert answer.status_code == 404


async def test_the_version_document_answers_with_and_without_its_slash(cloud) -> None:
    assert (await cloud.ask("GET", "/v2/", by=None)).status_code == 300
    assert (await cloud.ask("GET", "/v2", by=None)).status_code == 300
    assert (await cloud.ask("GET", "/", by=None)).status_code == 300


async def test_an_image_has_no_tasks_since_its_status_says_what_is_done_to_it(cloud) -> None:
    image = await cloud.make_active()
    answer = await cloud.ask("GET", f"/v2/images/{image['id']}/tasks")
    assert (answer.status_code, answer.json()) == (200, {"tasks": []})
    nothing = "11111111-0000-4000-8000-0000000000ff"
    assert (await cloud.ask("GET", f"/v2/images/{nothing}/tasks")).status_code == 404
