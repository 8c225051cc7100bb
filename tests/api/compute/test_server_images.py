"""createImage and createBackup as clients ask for them: what is taken, refused, and described."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xenith.compute.records.servers import servers
from xenith.image.operations import NewImage
from xenith.image.records import images

IMAGE = {"createImage": {"name": "mine"}}
BACKUP = {"createBackup": {"name": "b", "backup_type": "daily", "rotation": 2}}


@pytest.fixture
async def server_id(cloud):
    return await cloud.add_server("s", host_id=await cloud.add_host("h"))


async def _ask(cloud, server_id, body, *, by="member", at="2.1"):
    return await cloud.ask("POST", f"/servers/{server_id}/action", by=by, at=at, json=body)


async def _image(cloud, answer):
    """Read the image that a create before 2.45 or since then tells of."""
    image_id = answer.headers.get("location", "").rpartition("/")[2] or answer.json()["image_id"]
    return await cloud.context.images.show(_anyone(), image_id)


def _anyone():
    return SimpleNamespace(is_admin=True, project_id=None)


async def test_an_image_is_named_by_its_place_and_from_2_45_on_by_its_id(cloud, server_id):
    answer = await _ask(cloud, server_id, IMAGE)
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["location"].startswith("http://cloud/image/v2/images/")
    shown = (await cloud.get(f"/servers/{server_id}", by="member"))["server"]
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", "image_snapshot_pending")
    other = await cloud.add_server("other")
    answer = await _ask(cloud, other, IMAGE, at="2.45")
    assert answer.status_code == 202
    assert list(answer.json()) == ["image_id"]
    assert "location" not in answer.headers


async def test_an_image_says_what_it_is_of_and_keeps_what_its_image_said(cloud, server_id):
    base = await cloud.context.images.create(
        _who("p1"), NewImage(name="base", min_ram=256, min_disk=0, visibility="private")
    )
    await cloud.db.run(
        lambda tx: tx.update(
            servers,
            {"id": server_id},
            image_id=base.id,
            image_properties={"os_type": "linux", "vm_mode": "hvm", "cache_in_nova": "True"},
        )
    )
    body = {"createImage": {"name": " mine ", "metadata": {"colour": "red", "os_type": "bsd"}}}
    image = await _image(cloud, await _ask(cloud, server_id, body))
    assert (image.name, image.status, image.visibility) == ("mine", "queued", "private")
    assert (image.disk_format, image.container_format) == ("vhd", "bare")
    assert (image.owner, image.min_ram, image.min_disk) == ("p1", 256, 1)
    assert image.properties == {
        "os_type": "bsd",
        "vm_mode": "hvm",
        "colour": "red",
        "image_type": "snapshot",
        "base_image_ref": base.id,
        "instance_uuid": server_id,
        "user_id": "user-member",
        "owner_id": "p1",
        "owner_user_name": "member",
        "owner_project_name": "p1",
        "boot_roles": "member,reader",
    }


def _who(project_id):
    return SimpleNamespace(is_admin=False, project_id=project_id)


async def test_a_backup_is_of_a_type_and_one_of_none_is_nowhere(cloud, server_id):
    image = await _image(cloud, await _ask(cloud, server_id, BACKUP))
    assert image.properties["image_type"] == "backup"
    assert image.properties["backup_type"] == "daily"
    other = await cloud.add_server("other")
    none = {"createBackup": {**BACKUP["createBackup"], "rotation": "0"}}
    answer = await _ask(cloud, other, none, at="2.45")
    assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.parametrize("vm_state", ["stopped", "paused", "suspended"])
async def test_a_server_that_does_not_run_can_be_imaged(cloud, vm_state):
    found = await cloud.add_server("s", vm_state=vm_state)
    assert (await _ask(cloud, found, IMAGE)).status_code == 202


@pytest.mark.parametrize("body", [IMAGE, BACKUP], ids=["image", "backup"])
@pytest.mark.parametrize(
    ("vm_state", "task_state"),
    [("building", None), ("error", None), ("resized", None), ("active", "powering-off")],
)
async def test_a_server_that_is_busy_or_no_server_yet_is_not(cloud, body, vm_state, task_state):
    found = await cloud.add_server("s", vm_state=vm_state, task_state=task_state)
    answer = await _ask(cloud, found, body)
    assert answer.status_code == 409, answer.text


async def test_one_image_at_a_time(cloud, server_id):
    assert (await _ask(cloud, server_id, IMAGE)).status_code == 202
    assert (await _ask(cloud, server_id, IMAGE)).status_code == 409
    assert len(await cloud.db.read(lambda tx: tx.list(images))) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"createImage": {}},
        {"createImage": {"name": ""}},
        {"createImage": {"name": "x" * 256}},
        {"createImage": {"name": "a", "metadata": {"k": 1}}},
        {"createImage": {"name": "a", "more": 1}},
        {"createBackup": {"name": "b", "backup_type": "daily"}},
        {"createBackup": {"name": "b", "backup_type": "daily", "rotation": -1}},
        {"createBackup": {"name": "b", "backup_type": "daily", "rotation": "many"}},
    ],
)
async def test_what_makes_no_sense_is_refused(cloud, server_id, body):
    assert (await _ask(cloud, server_id, body)).status_code == 400


async def test_too_many_properties_are_refused_and_leave_nothing(cloud, server_id):
    body = {"createImage": {"name": "a", "metadata": {f"k{n}": "v" for n in range(200)}}}
    answer = await _ask(cloud, server_id, body)
    assert answer.status_code == 403, answer.text
    assert await cloud.db.read(lambda tx: tx.list(images)) == []
    shown = (await cloud.get(f"/servers/{server_id}", by="member"))["server"]
    assert shown["OS-EXT-STS:task_state"] is None


@pytest.mark.parametrize(("by", "code"), [("reader", 403), ("member-2", 404)])
async def test_others_do_not_image_it(cloud, server_id, by, code):
    assert (await _ask(cloud, server_id, IMAGE, by=by)).status_code == code
