"""The driver's small tables and formats: faults, names, the packed log, what a host is."""

import base64
import zlib

import pytest

from xenith.core.errors import Conflict, Exhausted, NotFound, Unavailable
from xenith.core.limits import CONSOLE_LOG_BYTES_MAX
from xenith.driver.console import unpack_log
from xenith.driver.faults import Spoken, error_of
from xenith.driver.inventory import Inventory
from xenith.driver.names import is_complete_image, is_stray
from xenith.driver.vms import vif_record
from xenith.xapi import XapiFault


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("HANDLE_INVALID", NotFound),
        ("VM_BAD_POWER_STATE", Conflict),
        ("SR_BACKEND_FAILURE_44", Exhausted),
        ("SOMETHING_NEW", Unavailable),
    ],
)
def test_a_fault_is_raised_as_what_the_caller_can_do_about_it(code, kind):
    with pytest.raises(kind, match="host h1 could not clone") as raised, Spoken("h1", "clone"):
        raise XapiFault(code, "x")
    assert raised.value.kind == code
    assert isinstance(raised.value.__cause__, XapiFault)


def test_a_hosts_whole_log_does_not_become_an_error_message():
    fault = XapiFault("SR_BACKEND_FAILURE_47", "x" * 100_000)
    assert len(error_of(fault, host_name="h", doing="x").message) < 500


def test_a_log_that_unpacks_without_end_is_cut():
    bomb = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    assert len(unpack_log(bomb)) == CONSOLE_LOG_BYTES_MAX


@pytest.mark.parametrize("packed", ["aGVsbG8=", "é"])
def test_a_log_that_is_none_is_an_error_of_the_host(packed):
    with pytest.raises(Unavailable):
        unpack_log(packed)


def vdi(name, uuid="u1", *, vbds=(), **config):
    return {
        "name_label": name,
        "uuid": uuid,
        "VBDs": list(vbds),
        "virtual_size": 1,
        "other_config": {key.replace("_", "-"): value for key, value in config.items()},
    }


ID = "22222222-0000-4000-8000-000000000001"


def test_images_clones_and_halves_are_told_apart_by_their_mark():
    image = vdi("xenith-image-i", xenith_image="i", xenith_image_complete="u1")
    clone = vdi("xenith-image-i", "u2", xenith_image="i", xenith_image_complete="u1")
    half = vdi("xenith-image-i", xenith_image="i")
    root = vdi(f"xenith-root-{ID}", "u3", xenith_image="i", xenith_image_complete="u1")
    assert [is_complete_image(x) for x in (image, clone, half, root)] == [True, False, False, False]
    assert [is_stray(x) for x in (image, clone, half, root)] == [False, True, True, False]


def test_disks_that_are_not_ours_are_never_strays():
    inventory = Inventory(lambda *_: None)
    others = {
        "a": vdi("somebody's disk"),
        "b": vdi("xenith-root-not-an-id"),
        "c": vdi(""),
    }
    assert inventory.take_disks(others) == []


def test_of_two_disks_of_one_name_the_one_that_a_vm_has_is_kept():
    inventory = Inventory(lambda *_: None)
    name = f"xenith-root-{ID}"
    strays = inventory.take_disks({"free": vdi(name), "used": vdi(name, vbds=["v"])})
    assert strays == ["free"]
    assert inventory.held(ID).root == "used"


def vm(power="Running", **changes):
    return {
        "other_config": {"xenith-instance": ID},
        "is_a_snapshot": False,
        "is_a_template": False,
        "power_state": power,
        **changes,
    }


def test_only_changes_of_our_vms_are_told_and_each_once():
    told = []
    inventory = Inventory(lambda *heard: told.append(heard))
    inventory.vm_changed("v1", vm())
    inventory.vm_changed("v1", vm())
    inventory.vm_changed("v1", vm("Halted"))
    inventory.vm_changed("v2", vm("Paused", other_config={}))
    inventory.vm_changed("v3", vm("Paused", is_a_snapshot=True))
    inventory.vms_are(set())
    inventory.vm_gone("v1")
    assert told == [(ID, "shutdown"), (ID, "nostate")]
    assert inventory.instances == {}


def test_a_vif_is_locked_to_its_addresses_where_the_host_can(make):
    (nic,) = make().nics
    assert vif_record("v", nic, "n", is_locked=True)["locking_mode"] == "locked"
    assert vif_record("v", nic, "n", is_locked=False)["locking_mode"] == "network_default"
