"""The unmodified `openstacksdk`, against a cloud on each database."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

import pytest
from openstack import exceptions

if TYPE_CHECKING:
    from tests.compat.conftest import RunningCloud

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_projects_users_and_roles_are_made_found_and_removed(
    cloud_of_each_database: RunningCloud,
) -> None:
    admin = cloud_of_each_database.connect("xenith")
    tag = secrets.token_hex(4)
    project = admin.identity.create_project(name=f"p-{tag}", description="made by the SDK")
    user = admin.identity.create_user(name=f"u-{tag}", password="p", email="u@example.org")
    role = admin.identity.create_role(name=f"r-{tag}")
    admin.identity.assign_project_role_to_user(project, user, role)
    assert admin.identity.validate_user_has_project_role(project, user, role)
    admin.identity.delete_role(role)
    assert not list(admin.identity.role_assignments(user_id=user.id))
    admin.identity.delete_user(user)
    admin.identity.delete_project(project)
    assert admin.identity.find_project(f"p-{tag}") is None


def test_an_image_is_uploaded_changed_shared_and_read_back(
    cloud_of_each_database: RunningCloud,
) -> None:
    member = cloud_of_each_database.connect("xenith-demo")
    admin = cloud_of_each_database.connect("xenith")
    given = secrets.token_bytes(1024 * 1024 + 3)
    image = member.image.create_image(
        name="sdk", data=given, disk_format="raw", container_format="bare", wait=True
    )
    image = member.image.get_image(image.id)
    assert image.status == "active"
    assert image.hash_value == hashlib.new(image.hash_algo, given).hexdigest()
    assert member.image.download_image(image).content == given
    image = member.image.update_image(image, visibility="shared", colour="blue")
    assert image.properties["colour"] == "blue"
    member.image.add_member(image, member_id=admin.current_project_id)
    admin.image.update_member(admin.current_project_id, image, status="accepted")
    assert image.id in {one.id for one in admin.image.images(visibility="shared")}
    member.image.update_image(image, is_protected=True)
    with pytest.raises(exceptions.ForbiddenException):
        member.image.delete_image(image)
    member.image.update_image(image, is_protected=False)
    member.image.delete_image(image)
    assert member.image.find_image(image.id) is None


def test_a_server_is_built_told_what_to_do_and_removed(
    cloud_of_each_database: RunningCloud,
) -> None:
    member = cloud_of_each_database.connect("xenith-demo")
    admin = cloud_of_each_database.connect("xenith")
    tag = secrets.token_hex(4)
    flavor = admin.compute.create_flavor(name=f"f-{tag}", ram=64, vcpus=1, disk=1)
    image = member.image.create_image(
        name=f"i-{tag}", data=bytes(1024 * 1024), disk_format="raw", container_format="bare",
        wait=True,
    )  # fmt: skip
    key = member.compute.create_keypair(name=f"k-{tag}")
    assert "PRIVATE KEY" in key.private_key
    network = member.network.create_network(name=f"n-{tag}")
    subnet = member.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.7.7.0/24")
    server = member.compute.create_server(
        name=f"s-{tag}", flavor_id=flavor.id, image_id=image.id, key_name=key.name,
        networks=[{"uuid": network.id}], metadata={"purpose": "test"},
    )  # fmt: skip

    def until(status: str) -> None:
        nonlocal server
        # The SDK believes what it read before the act, if that is the status to wait for.
        server = member.compute.get_server(server)
        server = member.compute.wait_for_server(server, status=status, interval=0.1, wait=60)

    until("ACTIVE")
    port = next(member.network.ports(device_id=server.id))
    assert port.fixed_ips[0]["subnet_id"] == subnet.id
    assert server.addresses[network.name][0]["addr"] == port.fixed_ips[0]["ip_address"]
    assert [one.id for one in member.compute.servers(name=f"s-{tag}")] == [server.id]
    for act, status in (
        (member.compute.stop_server, "SHUTOFF"),
        (member.compute.start_server, "ACTIVE"),
        (member.compute.pause_server, "PAUSED"),
        (member.compute.unpause_server, "ACTIVE"),
        (member.compute.suspend_server, "SUSPENDED"),
        (member.compute.resume_server, "ACTIVE"),
    ):
        act(server)
        until(status)
    member.compute.reboot_server(server, "HARD")
    until("ACTIVE")
    larger = admin.compute.create_flavor(name=f"l-{tag}", ram=128, vcpus=2, disk=2)
    for end, name in (
        (member.compute.revert_server_resize, flavor.name),
        (member.compute.confirm_server_resize, larger.name),
    ):
        member.compute.resize_server(server, larger)
        until("VERIFY_RESIZE")
        end(server)
        until("ACTIVE")
        assert server.flavor.original_name == name
    member.compute.lock_server(server)
    with pytest.raises(exceptions.ConflictException):
        member.compute.stop_server(server)
    member.compute.unlock_server(server)
    assert f"s-{tag}" in member.compute.get_server_console_output(server)["output"]
    done = [one.action for one in member.compute.server_actions(server)]
    assert (done[-1], done[0]) == ("create", "unlock")
    member.compute.delete_server(server)
    member.compute.wait_for_delete(server, interval=0.1, wait=60)
    assert not list(member.network.ports(network_id=network.id))
    member.network.delete_network(network)
