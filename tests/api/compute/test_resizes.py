"""Resize, confirmResize and revertResize as clients ask for them: what is taken, and refused."""

from __future__ import annotations

import pytest

from xenith.compute.records import quotas
from xenith.compute.records.flavors import flavors
from xenith.compute.records.servers import servers
from xenith.image.operations import NewImage


def _write_flavors(tx):
    base = {
        "vcpus": 1,
        "ram_mib": 512,
        "root_gib": 1,
        "ephemeral_gib": 0,
        "swap_mib": 0,
        "rxtx_factor": 1.0,
        "is_public": True,
        "is_disabled": False,
        "description": None,
        "extra_specs": {},
        "created_at": 0.0,
        "updated_at": None,
    }
    for name, fields in {
        "1": {},
        "larger": {"ram_mib": 1024, "vcpus": 2, "root_gib": 2},
        "disabled": {"is_disabled": True},
        "private": {"is_public": False},
    }.items():
        tx.upsert(flavors, {**base, "id": name, "name": f"name-{name}", **fields})


@pytest.fixture
async def house(cloud):
    await cloud.db.run(_write_flavors)
    return cloud


@pytest.fixture
async def server_id(house):
    return await house.add_server("s")


async def _ask(house, server_id, body, *, by="member", at="2.1"):
    path = f"/servers/{server_id}/action"
    return await house.ask("POST", path, by=by, at=at, json=body)


async def test_a_resize_is_taken_and_shows_the_old_flavor_until_it_is_done(house, server_id):
    answer = await _ask(house, server_id, {"resize": {"flavorRef": "larger"}})
    assert (answer.status_code, answer.content) == (202, b"")
    shown = (await house.get(f"/servers/{server_id}", by="member", at="2.1"))["server"]
    assert shown["status"] == "RESIZE"
    assert shown["OS-EXT-STS:task_state"] == "resize_prep"
    assert shown["flavor"]["id"] != "larger"
    again = await _ask(house, server_id, {"resize": {"flavorRef": "larger"}})
    assert again.status_code == 409
    actions = await house.get(f"/servers/{server_id}/os-instance-actions", by="member")
    assert [one["action"] for one in actions["instanceActions"]][:1] == ["resize"]


@pytest.mark.parametrize("vm_state", ["building", "paused", "suspended", "error", "resized"])
async def test_a_server_in_another_state_is_not_resized(house, vm_state):
    found = await house.add_server("s", vm_state=vm_state)
    answer = await _ask(house, found, {"resize": {"flavorRef": "larger"}})
    assert answer.status_code == 409, answer.text


@pytest.mark.parametrize("flavor", ["disabled", "private", "nowhere"])
async def test_a_flavor_that_may_not_be_used_is_refused(house, server_id, flavor):
    answer = await _ask(house, server_id, {"resize": {"flavorRef": flavor}})
    assert answer.status_code == 400, answer.text


async def test_the_same_flavor_is_refused(house, server_id):
    flavor_id = (await house.db.read(lambda tx: tx.get(servers, id=server_id))).flavor_id
    answer = await _ask(house, server_id, {"resize": {"flavorRef": flavor_id}})
    assert answer.status_code == 400
    assert "must change flavor" in answer.text


async def test_a_smaller_disk_is_refused(house, server_id):
    await house.db.run(
        lambda tx: tx.update(
            servers, {"id": server_id}, flavor={**tx.get(servers, id=server_id).flavor, "disk": 99}
        )
    )
    answer = await _ask(house, server_id, {"resize": {"flavorRef": "larger"}})
    assert answer.status_code == 400
    assert "smaller disk" in answer.text


async def test_a_flavor_with_less_memory_than_the_image_asks_for_is_refused(
    house, callers, server_id
):
    new = NewImage(name="i", disk_format="raw", container_format="bare", min_ram=2048)
    image = await house.context.images.create(callers.principals["member"], new)
    await house.db.run(lambda tx: tx.update(servers, {"id": server_id}, image_id=image.id))
    answer = await _ask(house, server_id, {"resize": {"flavorRef": "larger"}})
    assert answer.status_code == 400
    assert "memory is too small" in answer.text
    assert (await house.db.read(lambda tx: tx.get(servers, id=server_id))).resize is None


async def test_a_resize_over_quota_is_refused(house, server_id):
    limits = {"ram": 0}
    await house.db.run(lambda tx: quotas.set_limits(tx, scope="project", owner="p1", limits=limits))
    answer = await _ask(house, server_id, {"resize": {"flavorRef": "larger"}})
    assert answer.status_code == 403, answer.text
    assert "Quota exceeded for ram" in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"resize": None},
        {"resize": {}},
        {"resize": {"flavorRef": ""}},
        {"resize": {"flavorRef": "larger", "more": 1}},
        {"resize": {"flavorRef": "larger", "OS-DCF:diskConfig": "SOME"}},
    ],
)
async def test_a_resize_that_is_none_is_refused(house, server_id, body):
    assert (await _ask(house, server_id, body)).status_code == 400


@pytest.mark.parametrize(("action", "status"), [("confirmResize", 204), ("revertResize", 202)])
async def test_only_a_resized_server_is_confirmed_or_reverted_and_once(house, action, status):
    active = await house.add_server("a")
    assert (await _ask(house, active, {action: None})).status_code == 409
    resized = await house.add_server("r", vm_state="resized")
    shown = (await house.get(f"/servers/{resized}", by="member", at="2.1"))["server"]
    assert shown["status"] == "VERIFY_RESIZE"
    assert (await _ask(house, resized, {action: None}, by="member-2")).status_code == 404
    assert (await _ask(house, resized, {action: None}, by="reader")).status_code == 403
    answer = await _ask(house, resized, {action: None})
    assert (answer.status_code, answer.content) == (status, b"")
    assert (await _ask(house, resized, {action: None})).status_code == 409
