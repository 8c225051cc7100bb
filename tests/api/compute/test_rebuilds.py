"""Rebuild as clients ask for it: what is taken, what is refused, and what the answer holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.image.operations import NewImage
from xenith.image.records import images

WHO = SimpleNamespace(is_admin=False, project_id="p1")


@pytest.fixture
async def image_id(cloud):
    return await make_image(cloud)


async def make_image(cloud, **fields):
    made = await cloud.context.images.create(
        WHO, NewImage(**{"name": "other", "disk_format": "raw", **fields})
    )
    await cloud.db.run(lambda tx: tx.update(images, {"id": made.id}, status="active", size=2**20))
    return made.id


async def add_server(cloud, **fields):
    """Put a server on a host, past what follows from that in other services."""
    found = await cloud.add_server("s", **fields)
    await cloud.db.run(lambda tx: tx.update(instances, {"id": found}, host_name="h"))
    return found


@pytest.fixture
async def server_id(cloud):
    return await add_server(cloud)


async def ask(cloud, server_id, at="2.1", by="member", **fields):
    path = f"/servers/{server_id}/action"
    return await cloud.ask("POST", path, by=by, at=at, json={"rebuild": fields})


async def test_a_rebuild_is_taken_and_told_as_the_server_will_be(cloud, server_id, image_id):
    ports = [
        {
            "id": "port",
            "network_name": "n",
            "mac": "fa:16:3e:00:00:01",
            "addresses": [{"address": "192.0.2.4", "version": 4}],
        }
    ]
    await cloud.db.run(lambda tx: tx.update(servers, {"id": server_id}, ports=ports))
    answer = await ask(
        cloud, server_id, imageRef=image_id, name=" anew ", metadata={"a": "b"}, adminPass="pw"
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"].endswith(f"/compute/v2.1/servers/{server_id}")
    server = answer.json()["server"]
    assert (server["name"], server["status"], server["adminPass"]) == ("anew", "REBUILD", "pw")
    assert server["image"]["id"] == image_id
    assert server["metadata"] == {"a": "b"}
    assert server["addresses"] == {"n": [{"version": 4, "addr": "192.0.2.4"}]}
    assert "OS-EXT-STS:task_state" not in server
    shown = (await cloud.get(f"/servers/{server_id}", by="member"))["server"]
    assert shown["OS-EXT-STS:task_state"] == "rebuilding"
    row = await cloud.db.read(lambda tx: tx.get(servers, id=server_id))
    assert (row.name, row.image_id) == ("anew", image_id)


async def test_what_came_later_is_told_later(cloud, server_id, image_id):
    answer = await ask(
        cloud, server_id, at="2.75", imageRef=image_id, description="d", user_data="aGk="
    )
    server = answer.json()["server"]
    assert (server["description"], server["user_data"], server["key_name"]) == ("d", "aGk=", None)
    assert server["OS-EXT-STS:task_state"] == "rebuilding"
    assert len(server["adminPass"]) >= 12


@pytest.mark.parametrize("at", ["2.1", "2.18"])
async def test_fields_of_later_versions_are_refused_before(cloud, server_id, image_id, at):
    answer = await ask(cloud, server_id, at=at, imageRef=image_id, description="d")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("vm_state", "task_state"),
    [("building", None), ("paused", None), ("suspended", None), ("active", "rebooting")],
)
async def test_a_server_in_another_state_is_not_rebuilt(cloud, image_id, vm_state, task_state):
    found = await add_server(cloud, vm_state=vm_state, task_state=task_state)
    assert (await ask(cloud, found, imageRef=image_id)).status_code == 409


@pytest.mark.parametrize("vm_state", ["active", "stopped", "error"])
async def test_one_that_runs_or_stands_still_or_failed_is(cloud, image_id, vm_state):
    found = await add_server(cloud, vm_state=vm_state)
    assert (await ask(cloud, found, imageRef=image_id)).status_code == 202
    assert (await ask(cloud, found, imageRef=image_id)).status_code == 409


async def test_one_that_was_never_on_a_host_is_not(cloud, image_id):
    found = await cloud.add_server("s", vm_state="error")
    assert (await ask(cloud, found, imageRef=image_id)).status_code == 409


async def test_images_that_do_not_fit_are_refused(cloud, server_id):
    for fields in ({"min_ram": 4096}, {"min_disk": 50}):
        image_id = await make_image(cloud, **fields)
        answer = await ask(cloud, server_id, imageRef=image_id)
        assert answer.status_code == 400, fields
    for image_ref in ("", "nowhere", "11111111-0000-4000-8000-000000000001"):
        assert (await ask(cloud, server_id, imageRef=image_ref)).status_code == 400
    assert (await ask(cloud, server_id)).status_code == 400
    shown = (await cloud.get(f"/servers/{server_id}", by="member"))["server"]
    assert shown["OS-EXT-STS:task_state"] is None


async def test_a_key_must_be_the_users(cloud, server_id, image_id):
    answer = await ask(cloud, server_id, at="2.54", imageRef=image_id, key_name="nobody's")
    assert answer.status_code == 400


@pytest.mark.parametrize(("by", "code"), [("reader", 403), ("member-2", 404)])
async def test_others_do_not_rebuild_it(cloud, server_id, image_id, by, code):
    assert (await ask(cloud, server_id, by=by, imageRef=image_id)).status_code == code


async def test_a_locked_server_is_not_rebuilt(cloud, server_id, image_id):
    await cloud.db.run(lambda tx: tx.update(servers, {"id": server_id}, is_locked=True))
    assert (await ask(cloud, server_id, imageRef=image_id)).status_code == 409
