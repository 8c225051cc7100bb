"""dom0's plugins by name and function, as Nova's driver and its forerunners called them."""

import json

import pytest


async def ask(sim_host, plugin, function, **args):
    host = (await sim_host.call("host.get_all"))[0]
    return await sim_host.call("host.call_plugin", host, plugin, function, args)


async def test_a_plugin_is_called_with_and_without_its_suffix(sim_host):
    for name in ("xenhost", "xenhost.py"):
        data = json.loads(await ask(sim_host, name, "host_data"))
        assert data["enabled"] == "true"
        assert data["host_cpu_info"]["cpu_count"] == 4


async def test_a_host_is_disabled_and_enabled_by_its_plugin(sim_host):
    host = (await sim_host.call("host.get_all"))[0]
    for word, status in (("false", "disabled"), ("true", "enabled")):
        answer = await ask(sim_host, "xenhost.py", "set_host_enabled", enabled=word)
        assert json.loads(answer) == {"status": status}
        assert await sim_host.call("host.get_enabled", host) is (word == "true")
    args = {"enabled": "yes"}
    fault = await sim_host.fault("host.call_plugin", host, "xenhost", "set_host_enabled", args)
    assert fault[:2] == ["XENAPI_PLUGIN_FAILURE", "set_host_enabled"]


async def test_a_host_says_how_long_it_has_been_up(sim_host):
    assert " up 0 days,  0:0" in json.loads(await ask(sim_host, "xenhost", "host_uptime"))["uptime"]


@pytest.mark.parametrize(
    ("plugin", "function", "fault"),
    [
        ("../../bin/sh", "x", ["XENAPI_MISSING_PLUGIN", "../../bin/sh"]),
        ("absent.py", "x", ["XENAPI_MISSING_PLUGIN", "absent.py"]),
        ("console.py", "explode", ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "explode"]),
        ("xenhost", "", ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", ""]),
    ],
)
async def test_what_is_not_there_has_the_code_that_says_what(sim_host, plugin, function, fault):
    host = (await sim_host.call("host.get_all"))[0]
    assert await sim_host.fault("host.call_plugin", host, plugin, function, {}) == fault
