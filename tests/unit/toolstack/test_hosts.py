"""Hosts as machines: emptied, switched off and on, measured, configured."""

import asyncio

import pytest

from xenith.core.units import GIB, MIB
from xenith.xapi import XapiFault


@pytest.fixture
async def pool(sim_fleet):
    await sim_fleet.start("a", "b")
    await sim_fleet.join("b", "a")
    return sim_fleet


async def start_on(pool, host, size=256 * MIB):
    vm = await pool.call("a", "VM.create", {"name_label": "x", "memory_static_max": size})
    await pool.call("a", "VM.start_on", vm, host, False, False)
    return vm


async def test_a_host_is_emptied_switched_off_and_on_again(pool):
    b = pool.host("b").ref
    vm = await start_on(pool, b)
    assert await pool.fault("a", "host.shutdown", b) == ["HOST_NOT_DISABLED"]
    await pool.call("a", "host.disable", b)
    assert await pool.fault("a", "host.shutdown", b) == ["HOST_IN_USE", b, "VM", vm]
    await pool.call("a", "host.evacuate", b)
    assert await pool.call("a", "VM.get_resident_on", vm) == pool.host("a").ref
    operations = await pool.call("a", "host.get_allowed_operations", b)
    assert operations == ["enable", "evacuate", "reboot", "shutdown"]
    await pool.call("a", "host.shutdown", b)
    assert await pool.call("a", "host.get_allowed_operations", b) == ["power_on"]
    metrics = await pool.call("a", "host.get_metrics", b)
    assert not await pool.call("a", "host_metrics.get_live", metrics)
    assert await pool.fault("a", "VM.pool_migrate", vm, b, {}) == ["HOST_DISABLED", b]
    await pool.call("a", "host.enable", b)
    assert await pool.fault("a", "VM.pool_migrate", vm, b, {}) == ["HOST_OFFLINE", b]
    await pool.call("a", "host.power_on", b)
    assert await pool.call("a", "host_metrics.get_live", metrics)
    with pytest.raises(XapiFault, match="HOST_IS_SLAVE"):
        await pool.session("b")
    await pool.call("a", "VM.pool_migrate", vm, b, {})
    assert await pool.fault("a", "host.power_on", b) == ["HOST_IS_LIVE", b]


async def test_a_host_whose_vms_can_go_nowhere_is_not_emptied(pool):
    a, b = pool.host("a").ref, pool.host("b").ref
    await start_on(pool, a, 2 * GIB)
    vm = await start_on(pool, b)
    why = ["HOST_NOT_ENOUGH_FREE_MEMORY", str(256 * MIB), "0"]
    assert await pool.call("a", "host.get_vms_which_prevent_evacuation", b) == {vm: why}
    for name in ("assert_can_evacuate", "evacuate"):
        fault = await pool.fault("a", f"host.{name}", b)
        assert fault == ["CANNOT_EVACUATE_HOST", ",".join(why)]
    assert await pool.call("a", "VM.get_resident_on", vm) == b


async def test_a_reboot_is_seen_in_the_time_of_boot(sim_host):
    (host,) = await sim_host.call("host.get_all")
    sim_host.server.objects.update("host", host, other_config={"boot_time": "1"})
    await sim_host.call("host.disable", host)
    await sim_host.call("host.reboot", host)
    record = await sim_host.call("host.get_record", host)
    assert record["enabled"]
    assert float(record["other_config"]["boot_time"]) > 1


async def test_a_host_that_switches_itself_off_has_answered_before(sim_host, monkeypatch):
    monkeypatch.setattr("xenith.toolstack.classes.host_life.POWER_DELAY_S", 0.01)
    (host,) = await sim_host.call("host.get_all")
    await sim_host.call("host.disable", host)
    await sim_host.call("host.shutdown", host)
    async with asyncio.timeout(5):
        while sim_host.server.is_up:  # noqa: ASYNC110 - nobody tells of a host's death
            await asyncio.sleep(0)


async def test_what_a_host_tells_of_itself(sim_host):
    (host,) = await sim_host.call("host.get_all")
    cpus = await sim_host.call("host_cpu.get_all_records")
    assert len(cpus) == 4
    assert set(await sim_host.call("host.get_host_CPUs", host)) == set(cpus)
    names = [row["name_label"] for row in await sim_host.call("host.get_data_sources", host)]
    cpus_of_it = [f"cpu{number}" for number in range(4)]
    assert names == [*cpus_of_it, "cpu_avg", "loadavg", "memory_total_kib", "memory_free_kib"]
    total = await sim_host.call("host.query_data_source", host, "memory_total_kib")
    assert total == 2 * GIB / 1024
    assert "VM.start" in await sim_host.call("host.list_methods")
    assert await sim_host.call("host.has_extension", host, "x") is False
    assert await sim_host.fault("host.call_extension", host, "x") == ["MESSAGE_METHOD_UNKNOWN", "x"]
    await sim_host.call("host.set_hostname_live", host, "web-1")
    assert await sim_host.call("host.get_hostname", host) == "web-1"
    assert (await sim_host.fault("host.set_hostname_live", host, "a b"))[0] == "HOST_NAME_INVALID"
    await sim_host.call("host.restart_agent", host)
    (manager,) = (await sim_host.call("SM.get_all_records")).values()
    assert manager["type"] == "file"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("host.set_ssl_legacy", [True], "VALUE_NOT_SUPPORTED"),
        ("host.set_https_only", [True], "VALUE_NOT_SUPPORTED"),
        ("host.set_power_on_mode", ["steam", {}], "INVALID_VALUE"),
        ("host.apply_updates", ["hash"], "NO_REPOSITORY_ENABLED"),
        ("host.get_log", [], "NOT_IMPLEMENTED"),
        ("host.query_data_source", ["x"], "INTERNAL_ERROR"),
        ("host.get_server_certificate", [], "OPERATION_NOT_ALLOWED"),
        ("host.destroy", [], "HOST_CANNOT_DESTROY_SELF"),
        ("pool.eject", [], "HOST_CANNOT_DESTROY_SELF"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_code(sim_host, method, params, code):
    (host,) = await sim_host.call("host.get_all")
    assert (await sim_host.fault(method, host, *params))[0] == code
