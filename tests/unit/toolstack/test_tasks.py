"""Tasks: how an ``Async.`` call tells its end, and which tasks are kept."""

import asyncio

import pytest

from xenith.toolstack import server as server_module


async def ended(sim_host, task):
    """Let a task end, and give its record."""
    for _ in range(200):
        record = await sim_host.call("task.get_record", task)
        if record["status"] != "pending":
            return record
    raise AssertionError("the task does not end")


async def test_a_result_is_a_fragment_of_xml(sim_host):
    given = {"name_label": "a<b>", "memory_static_max": 1}
    record = await ended(sim_host, await sim_host.call("Async.VM.create", given))
    (vm,) = await sim_host.call("VM.get_by_name_label", "a<b>")
    assert record["status"] == "success"
    assert record["result"] == f"<value>{vm}</value>"
    assert record["progress"] == 1.0
    assert record["allowed_operations"] == ["destroy"]
    host = (await sim_host.call("host.get_all"))[0]
    free = await ended(sim_host, await sim_host.call("Async.host.compute_free_memory", host))
    number = await sim_host.call("host.compute_free_memory", host)
    assert free["result"] == f"<value>{number}</value>"


async def test_no_result_is_an_empty_text(sim_host):
    vm = await sim_host.make_vm()
    record = await ended(sim_host, await sim_host.call("Async.VM.destroy", vm))
    assert (record["status"], record["result"]) == ("success", "")


async def test_a_failure_is_told_with_its_code_and_parameters(sim_host):
    vm = await sim_host.make_vm()
    record = await ended(sim_host, await sim_host.call("Async.VM.clean_shutdown", vm))
    assert record["status"] == "failure"
    assert record["error_info"] == ["VM_BAD_POWER_STATE", vm, "running", "halted"]


async def test_a_task_that_is_forgotten_meanwhile_runs_to_its_end(sim_host):
    go = asyncio.Event()
    sim_host.backend.script = lambda _operation, _subject: go.wait()
    vm = await sim_host.make_vm()
    task = await sim_host.call("Async.VM.start", vm, False, False)
    assert (await sim_host.fault("task.cancel", task))[0] == "OPERATION_NOT_ALLOWED"
    await sim_host.call("task.destroy", task)
    go.set()
    for _ in range(100):
        if await sim_host.call("VM.get_power_state", vm) == "Running":
            break
    assert await sim_host.call("VM.get_power_state", vm) == "Running"


async def test_the_oldest_that_ended_are_forgotten_first(sim_host, monkeypatch):
    monkeypatch.setattr(server_module, "TASKS_KEPT_MAX", 3)
    tasks = []
    for _ in range(5):
        tasks.append(await sim_host.call("task.create", "t", ""))
        await sim_host.call("task.set_status", tasks[-1], "success")
    assert await sim_host.call("task.get_all") == tasks[-3:]


async def test_tasks_that_nobody_ends_do_not_pile_up(sim_host, monkeypatch):
    monkeypatch.setattr(server_module, "TASKS_KEPT_MAX", 1)
    monkeypatch.setattr(server_module, "TASKS_PENDING_MAX", 3)
    tasks = [await sim_host.call("task.create", "t", "") for _ in range(10)]
    assert await sim_host.call("task.get_all") == tasks[-4:]


async def test_a_client_drives_its_own_task(sim_host):
    task = await sim_host.call("task.create", "mine", "of mine")
    await sim_host.call("task.set_progress", task, 0.5)
    await sim_host.call("task.set_result", task, "so far")
    record = await sim_host.call("task.get_record", task)
    assert (record["status"], record["progress"], record["result"]) == ("pending", 0.5, "so far")
    assert (await sim_host.fault("task.set_status", task, "great"))[0] == "INVALID_VALUE"
    await sim_host.call("task.set_status", task, "cancelled")
    assert (await sim_host.call("task.get_record", task))["status"] == "cancelled"


async def test_tasks_end_as_events(sim_host):
    task = await sim_host.call("task.create", "mine", "")
    token = (await sim_host.session.events(["task"], "", 0.0)).token
    waiting = asyncio.ensure_future(sim_host.session.events([f"task/{task}"], token, 30.0))
    await sim_host.call("task.create", "another", "")
    await sim_host.call("task.set_status", task, "success")
    (event,) = (await waiting).events
    assert (event["ref"], event["snapshot"]["status"]) == (task, "success")


@pytest.mark.parametrize("limit_s", [server_module.SESSION_IDLE_MAX_S])
async def test_a_session_that_is_not_used_for_a_day_is_over(sim_host, monkeypatch, limit_s):
    used = sim_host.server._last_used_s
    (reference,) = used
    used[reference] -= limit_s + 1
    assert await sim_host.call("VM.get_all") == []  # the client has logged in anew
    assert reference not in used
    assert len(sim_host.server.objects.all("session")) == 1
