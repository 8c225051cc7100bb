"""The unmodified `openstack` command does what a newcomer does in the first hour."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.compat.conftest import RunningCloud

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_a_token_is_issued_and_the_catalog_listed(cloud: RunningCloud) -> None:
    token = cloud.openstack_json("token", "issue")
    assert token["id"]
    assert token["project_id"]
    catalog = cloud.openstack_json("catalog", "list")
    assert {("keystone", "identity"), ("glance", "image"), ("nova", "compute")} | {
        ("neutron", "network")
    } <= {(entry["Name"], entry["Type"]) for entry in catalog}
    assert {end["region"] for entry in catalog for end in entry["Endpoints"]} == {"RegionOne"}


def test_an_admin_makes_a_project_a_user_and_a_role(cloud: RunningCloud) -> None:
    project = cloud.openstack_json("project", "create", "crew", "--description", "of the ship")
    assert (project["name"], project["domain_id"]) == ("crew", "default")
    user = cloud.openstack_json(
        "user", "create", "ann", "--password", "a sea shanty", "--project", "crew"
    )
    role = cloud.openstack_json("role", "create", "helmsman")
    cloud.openstack("role", "add", "--project", "crew", "--user", "ann", "helmsman")
    assigned = cloud.openstack_json("role", "assignment", "list", "--user", "ann")
    assert [(one["Role"], one["Project"]) for one in assigned] == [(role["id"], project["id"])]
    assert user["default_project_id"] == project["id"]


def test_an_image_goes_in_and_comes_out_byte_for_byte(cloud: RunningCloud, tmp_path: Path) -> None:
    given, got = tmp_path / "given.img", tmp_path / "got.img"
    given.write_bytes(secrets.token_bytes(3 * 1024 * 1024 + 17))
    made = cloud.openstack_json(
        "image",
        "create",
        "noise",
        "--file",
        str(given),
        "--disk-format",
        "raw",
        cloud="xenith-demo",
    )
    image_id = made["id"]
    cloud.openstack("image", "save", "--file", str(got), image_id, cloud="xenith-demo")
    assert got.read_bytes() == given.read_bytes()
    cloud.openstack(
        "image", "set", "--name", "static", "--property", "hw_boot=bios", "--min-ram", "32",
        image_id, cloud="xenith-demo",
    )  # fmt: skip
    shown = cloud.openstack_json("image", "show", image_id, cloud="xenith-demo")
    assert (shown["name"], shown["min_ram"], shown["size"]) == (
        "static", 32, given.stat().st_size,
    )  # fmt: skip
    assert shown["properties"]["hw_boot"] == "bios"
    cloud.openstack("image", "delete", image_id, cloud="xenith-demo")
    left = cloud.openstack_json("image", "list", cloud="xenith-demo")
    assert image_id not in {image["ID"] for image in left}


def test_a_server_lives_its_whole_life(cloud: RunningCloud, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"boots nothing" + bytes(1024 * 1024))
    flavor = cloud.openstack_json(
        "flavor", "create", "small", "--id", "s1", "--ram", "64", "--disk", "1", "--vcpus", "1"
    )
    assert (flavor["id"], flavor["ram"]) == ("s1", 64)

    def member(*words: str) -> str:
        return cloud.openstack(*words, cloud="xenith-demo")

    member("image", "create", "disk", "--file", str(disk), "--disk-format", "raw")
    private = tmp_path / "key"
    member("keypair", "create", "mine", "--private-key", str(private))
    assert "PRIVATE KEY" in private.read_text()
    member("network", "create", "dock")
    member("subnet", "create", "pier", "--network", "dock", "--subnet-range", "10.9.8.0/24")
    made = cloud.openstack_json(
        "server", "create", "walker", "--flavor", "small", "--image", "disk", "--key-name", "mine",
        "--network", "dock", "--wait", cloud="xenith-demo",
    )  # fmt: skip
    assert made["status"] == "ACTIVE"
    assert made["addresses"]["dock"][0].startswith("10.9.8.")
    listed = cloud.openstack_json("server", "list", cloud="xenith-demo")
    assert [(one["Name"], one["Status"], one["Flavor"]) for one in listed] == [
        ("walker", "ACTIVE", "small")
    ]
    sdk = cloud.connect("xenith-demo")
    server = sdk.compute.get_server(made["id"])
    for verb, wanted in (
        ("stop", "SHUTOFF"),
        ("start", "ACTIVE"),
        ("pause", "PAUSED"),
        ("unpause", "ACTIVE"),
        ("suspend", "SUSPENDED"),
        ("resume", "ACTIVE"),
    ):
        member("server", verb, "walker")
        # These commands have no `--wait`, and to ask again by the command costs a second each time.
        sdk.compute.wait_for_server(server, status=wanted, interval=0.1, wait=60)
    shown = cloud.openstack_json("server", "show", "walker", cloud="xenith-demo")
    assert (shown["status"], shown["key_name"]) == ("ACTIVE", "mine")
    member("server", "reboot", "--wait", "walker")
    member("server", "lock", "walker")
    with pytest.raises(AssertionError, match="locked"):
        member("server", "stop", "walker")
    member("server", "unlock", "walker")
    assert "walker" in member("console", "log", "show", "walker")
    member("server", "delete", "--wait", "walker")
    assert member("server", "list", "-f", "value").strip() == ""


def test_a_tarball_of_vhds_is_an_image_of_which_a_server_runs(
    cloud: RunningCloud, tmp_path: Path, tarball_of: Callable[..., bytes]
) -> None:
    given, got = tmp_path / "given.tar.gz", tmp_path / "got.tar.gz"
    given.write_bytes(tarball_of([{0: b"base" * 128}, {2**20: b"leaf" * 128}], 2**22, gzip_level=6))
    kind = ("--disk-format", "vhd", "--container-format", "ovf")
    cloud.openstack("image", "create", "chain", *kind, "--file", str(given), cloud="xenith-demo")
    image = cloud.openstack_json("image", "show", "chain", cloud="xenith-demo")
    assert (image["status"], image["virtual_size"]) == ("active", 2**22)
    cloud.openstack("image", "save", "--file", str(got), "chain", cloud="xenith-demo")
    assert got.read_bytes() == given.read_bytes()
    server = ("--image", "chain", "--flavor", "m1.tiny", "--nic", "auto", "--wait", "chained")
    made = cloud.openstack_json("server", "create", *server, cloud="xenith-demo")
    assert made["status"] == "ACTIVE"
    cloud.openstack("server", "delete", "--wait", "chained", cloud="xenith-demo")
