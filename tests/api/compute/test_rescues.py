"""Rescue and unrescue as clients ask for them: what is taken, what is refused, what is answered."""

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


async def add_server(cloud, image_id, **fields):
    """Put a server that was made of an image on a host."""
    found = await cloud.add_server("s", **fields)
    await cloud.db.run(lambda tx: tx.update(instances, {"id": found}, host_name="h"))
    await cloud.db.run(lambda tx: tx.update(servers, {"id": found}, image_id=image_id))
    return found


async def ask(cloud, server_id, action="rescue", value=None, at="2.1", by="member"):
    path = f"/servers/{server_id}/action"
    return await cloud.ask("POST", path, by=by, at=at, json={action: value})


@pytest.mark.parametrize("at", ["2.1", "2.87"])
async def test_a_rescue_is_taken_and_its_password_told(cloud, image_id, at):
    found = await add_server(cloud, image_id)
    value = {"adminPass": "pw", "rescue_image_ref": image_id}
    answer = await ask(cloud, found, value=value, at=at)
    assert (answer.status_code, answer.json()) == (200, {"adminPass": "pw"})
    shown = (await cloud.get(f"/servers/{found}", by="member"))["server"]
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", "rescuing")
    # What it is made of is not what it is rescued with.
    assert shown["image"]["id"] == image_id


@pytest.mark.parametrize("value", [None, {}])
async def test_a_rescue_without_words_takes_the_servers_image(cloud, image_id, value):
    found = await add_server(cloud, image_id)
    answer = await ask(cloud, found, value=value)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["adminPass"]) >= 12


async def test_images_that_are_none_are_refused(cloud, image_id):
    found = await add_server(cloud, image_id)
    large = await make_image(cloud, min_ram=4096)
    for ref in ("", "nowhere", "11111111-0000-4000-8000-000000000001", large):
        answer = await ask(cloud, found, value={"rescue_image_ref": ref})
        assert answer.status_code == 400, ref
    assert (await ask(cloud, found, value={"image": image_id})).status_code == 400
    shown = (await cloud.get(f"/servers/{found}", by="member"))["server"]
    assert shown["OS-EXT-STS:task_state"] is None


@pytest.mark.parametrize(
    ("vm_state", "task_state"),
    [
        ("building", None),
        ("paused", None),
        ("suspended", None),
        ("rescued", None),
        ("active", "rebooting"),
    ],
)
async def test_a_server_in_another_state_is_not_rescued(cloud, image_id, vm_state, task_state):
    found = await add_server(cloud, image_id, vm_state=vm_state, task_state=task_state)
    answer = await ask(cloud, found)
    assert answer.status_code == 409
    assert found in answer.json()["conflictingRequest"]["message"]


@pytest.mark.parametrize("vm_state", ["active", "stopped", "error"])
async def test_one_that_runs_or_stands_still_or_failed_is(cloud, image_id, vm_state):
    found = await add_server(cloud, image_id, vm_state=vm_state)
    assert (await ask(cloud, found)).status_code == 200
    assert (await ask(cloud, found)).status_code == 409


async def test_only_a_rescued_server_is_brought_back(cloud, image_id):
    found = await add_server(cloud, image_id, vm_state="rescued")
    shown = (await cloud.get(f"/servers/{found}", by="member"))["server"]
    assert (shown["status"], shown["OS-EXT-STS:vm_state"]) == ("RESCUE", "rescued")
    assert (await ask(cloud, found, "unrescue")).status_code == 202
    shown = (await cloud.get(f"/servers/{found}", by="member"))["server"]
    assert shown["OS-EXT-STS:task_state"] == "unrescuing"
    assert (await ask(cloud, found, "unrescue")).status_code == 409
    other = await add_server(cloud, image_id)
    assert (await ask(cloud, other, "unrescue")).status_code == 409


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("os-start", None),
        ("os-stop", None),
        ("reboot", {"type": "HARD"}),
        ("pause", None),
        ("suspend", None),
        ("createImage", {"name": "x"}),
    ],
)
async def test_a_rescued_server_takes_nothing_else(cloud, image_id, action, value):
    found = await add_server(cloud, image_id, vm_state="rescued")
    assert (await ask(cloud, found, action, value)).status_code == 409


@pytest.mark.parametrize("action", ["rescue", "unrescue"])
@pytest.mark.parametrize(("by", "code"), [("reader", 403), ("member-2", 404)])
async def test_others_do_neither(cloud, image_id, action, by, code):
    found = await add_server(cloud, image_id, vm_state="rescued")
    assert (await ask(cloud, found, action, by=by)).status_code == code


@pytest.mark.parametrize("action", ["rescue", "unrescue"])
async def test_a_locked_server_is_left_as_it_is(cloud, image_id, action):
    vm_state = "active" if action == "rescue" else "rescued"
    found = await add_server(cloud, image_id, vm_state=vm_state)
    await cloud.db.run(lambda tx: tx.update(servers, {"id": found}, is_locked=True))
    assert (await ask(cloud, found, action)).status_code == 409
