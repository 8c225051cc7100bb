"""Schedules of images through the API, as the public cloud's extension had it."""

from __future__ import annotations

import pytest

PATH = "/servers/{}/rax-si-image-schedule"


async def ask(cloud, method, server_id, body=None, **options):
    fields = {} if body is None else {"json": {"image_schedule": body}}
    return await cloud.ask(method, PATH.format(server_id), **fields, **options)


async def test_a_schedule_is_made_changed_shown_and_taken_away(cloud):
    server_id = await cloud.add_server("a")
    assert (await ask(cloud, "GET", server_id)).status_code == 404
    made = await ask(cloud, "POST", server_id, {"retention": 3})
    assert (made.status_code, made.json()) == (200, {"image_schedule": {"retention": 3}})
    weekly = {"retention": 5, "day_of_week": "THURSDAY"}
    assert (await ask(cloud, "POST", server_id, weekly)).json() == {"image_schedule": weekly}
    assert (await ask(cloud, "GET", server_id)).json() == {"image_schedule": weekly}
    assert (await ask(cloud, "DELETE", server_id)).status_code == 202
    assert (await ask(cloud, "DELETE", server_id)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"retention": 0},
        {"retention": 65536},
        {"retention": "3"},
        {"retention": 3, "day_of_week": "Thursday"},
        {"retention": 3, "at": "noon"},
    ],
)
async def test_a_wrong_schedule_is_refused(cloud, body):
    server_id = await cloud.add_server("a")
    assert (await ask(cloud, "POST", server_id, body)).status_code == 400


async def test_a_server_of_another_has_none_to_see_or_make(cloud):
    server_id = await cloud.add_server("a", project_id="p2")
    for method, body in (("GET", None), ("POST", {"retention": 1}), ("DELETE", None)):
        assert (await ask(cloud, method, server_id, body, by="member")).status_code == 404
    assert (await ask(cloud, "GET", "nothing")).status_code == 404
