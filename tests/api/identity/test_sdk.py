"""The official clients, unmodified, against a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import warnings

import pytest
import uvicorn

from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare
from xenith.http import Site
from xenith.identity import CatalogEntry, Identity, service


@contextlib.asynccontextmanager
async def serving(tmp_path):
    world = World()
    db = open_database(f"sqlite:///{tmp_path}/cloud.db")
    prepare(db)
    identity = Identity(
        db, world, key_directory=tmp_path / "keys", region="RegionOne", token_life_s=3600
    )
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/identity"
    catalog = [CatalogEntry("identity", "keystone", url + "/v3")]
    await identity.bootstrap(admin_password="a", demo_password="d", catalog=catalog)
    site = Site([service(identity)], world=world, authenticator=identity)
    server = uvicorn.Server(uvicorn.Config(site, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield url
    finally:
        server.should_exit = True
        await task
        await identity.close()
        await db.close()


def use_sdk(url):
    import openstack
    from keystoneauth1.exceptions import Unauthorized

    login = {"auth_url": url, "username": "admin", "password": "a", "project_name": "admin",
             "user_domain_name": "Default", "project_domain_name": "Default"}  # fmt: skip
    cloud = openstack.connect(region_name="RegionOne", **login)
    assert cloud.authorize()
    project = cloud.identity.create_project(name="p1", description="made by the SDK")
    user = cloud.identity.create_user(name="u1", password="p", email="u@example.org")
    role = cloud.identity.find_role("member")
    cloud.identity.assign_project_role_to_user(project, user, role)
    assert cloud.identity.validate_user_has_project_role(project, user, role)
    assigned = list(cloud.identity.role_assignments(user_id=user.id))
    assert [one.role["id"] for one in assigned] == [role.id]
    theirs = openstack.connect(
        region_name="RegionOne",
        **{**login, "username": "u1", "password": "p", "project_name": "p1"},
    )
    app_cred = theirs.identity.create_application_credential(user, name="robot")
    robot = openstack.connect(
        auth_type="v3applicationcredential",
        auth={
            "auth_url": url,
            "application_credential_id": app_cred.id,
            "application_credential_secret": app_cred.secret,
        },
    )
    assert robot.current_project_id == project.id
    cloud.identity.update_project(project, is_enabled=False)
    with pytest.raises(Unauthorized):
        theirs.identity.get("/auth/catalog")
    names = {one.name for one in cloud.identity.projects()}
    assert names == {"admin", "demo", "service", "p1"}
    assert {one.id for one in cloud.identity.domains()} == {"default"}
    assert [one.id for one in cloud.identity.regions()] == ["RegionOne"]
    assert {one.interface for one in cloud.identity.endpoints()} == {"public", "internal", "admin"}
    group = cloud.identity.create_group(name="g1")
    cloud.identity.add_user_to_group(user, group)
    assert [one.id for one in cloud.identity.group_users(group)] == [user.id]
    cloud.identity.delete_group(group)
    cloud.identity.delete_user(user)
    cloud.identity.delete_project(project)
    system = openstack.connect(
        auth={"auth_url": url, "username": "admin", "password": "a", "system_scope": "all",
              "user_domain_name": "Default"},
        region_name="RegionOne",
    )  # fmt: skip
    assert system.authorize()


@pytest.mark.slow
async def test_the_sdk_signs_in_and_works_with_every_noun(tmp_path):
    async with serving(tmp_path) as url:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await asyncio.to_thread(use_sdk, url)


@pytest.mark.slow
async def test_the_command_line_client_issues_a_token_and_works_with_names(tmp_path):
    import os
    import sys

    async with serving(tmp_path) as url:
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "OS_AUTH_URL": url,
            "OS_USERNAME": "admin", "OS_PASSWORD": "a", "OS_PROJECT_NAME": "admin",
            "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default",
            "OS_REGION_NAME": "RegionOne", "OS_IDENTITY_API_VERSION": "3",
        }  # fmt: skip
        program = (
            "import sys\n"
            "from openstackclient.shell import main\n"
            "for line in sys.stdin:\n"
            "    assert main(line.split()) == 0, line\n"
        )
        commands = (
            "token issue -f value -c project_id",
            "catalog list -f value",
            "project create p1 --property colour=blue -f value -c name",
            "user create u1 --password p --project p1 -f value -c name",
            "role create r1 -f value -c name",
            "role add --project p1 --user u1 r1",
            "role assignment list --user u1 --names -f value",
            "user delete u1",
            "project delete p1",
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environ, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate("\n".join(commands).encode())
        assert process.returncode == 0, err.decode()[-2000:]
        assert b"keystone identity" in out
        assert b"r1 u1@Default" in out
