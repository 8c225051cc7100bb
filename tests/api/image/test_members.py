"""Sharing an image, as the official clients ask for it."""

from __future__ import annotations


async def test_a_member_is_named_again_by_the_sdk_when_it_accepts(cloud) -> None:
    image = await cloud.make(visibility="shared")
    path = f"/v2/images/{image['id']}/members"
    added = await cloud.ask("POST", path, json={"member": "p2"})
    assert added.status_code == 200, added.text
    accepted = await cloud.ask(
        "PUT", f"{path}/p2", by="member-2", json={"member": "p2", "status": "accepted"}
    )
    assert accepted.status_code == 200, accepted.text
    assert accepted.json()["status"] == "accepted"
