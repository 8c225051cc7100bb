"""Events: none lost, one an object, in order, and a token that says whose life it is from."""

import asyncio

import pytest

from xenith.toolstack import objects as objects_module
from xenith.xapi import XapiFault


async def now(sim_host) -> str:
    pool = (await sim_host.call("pool.get_all"))[0]
    return await sim_host.call("event.inject", "pool", pool)


async def test_from_the_start_everything_there_is_is_added(sim_host):
    vm = await sim_host.make_vm()
    batch = await sim_host.session.events(["*"], "", 0.0)
    assert {event["operation"] for event in batch.events} == {"add"}
    kinds = {event["class"] for event in batch.events}
    assert {"vm", "host", "pool", "sr", "pbd", "network", "pif", "host_metrics"} <= kinds
    assert "session" not in kinds
    assert [event["ref"] for event in batch.events if event["class"] == "vm"] == [vm]
    assert batch.valid_ref_counts["vm"] == 1


async def test_an_object_is_told_of_once_and_as_it_is_now(sim_host):
    vm = await sim_host.make_vm()
    token = await now(sim_host)
    for number in range(5):
        await sim_host.call("VM.set_name_description", vm, str(number))
    (event,) = (await sim_host.session.events(["vm"], token, 5.0)).events
    assert (event["operation"], event["snapshot"]["name_description"]) == ("mod", "4")
    assert event["snapshot"] == await sim_host.call("VM.get_record", vm)


async def test_creations_come_before_changes_before_deletions(sim_host):
    gone, kept = await sim_host.make_vm("gone"), await sim_host.make_vm("kept")
    token = await now(sim_host)
    await sim_host.call("VM.destroy", gone)
    await sim_host.call("VM.set_name_label", kept, "renamed")
    new = await sim_host.make_vm("new")
    batch = await sim_host.session.events(["VM"], token, 5.0)
    assert [(event["operation"], event["ref"]) for event in batch.events] == [
        ("add", new),
        ("mod", kept),
        ("del", gone),
    ]
    assert "snapshot" not in batch.events[-1]


async def test_what_came_and_went_between_two_calls_is_not_told(sim_host):
    token = await now(sim_host)
    vm = await sim_host.make_vm()
    await sim_host.call("VM.destroy", vm)
    assert (await sim_host.session.events(["vm"], token, 0.0)).events == []


async def test_a_wait_ends_with_the_first_event_of_its_classes(sim_host):
    vm, other = await sim_host.make_vm("one"), await sim_host.make_vm("other")
    token = await now(sim_host)
    waiting = asyncio.ensure_future(sim_host.session.events([f"VM/{vm}"], token, 30.0))
    await sim_host.call("VM.set_name_label", other, "not asked about")
    await sim_host.make_vdi()
    assert not waiting.done()
    await sim_host.call("VM.set_name_label", vm, "asked about")
    (event,) = (await asyncio.wait_for(waiting, 5)).events
    assert event["snapshot"]["name_label"] == "asked about"


async def test_a_wait_without_events_ends_at_its_timeout_with_a_token_that_goes_on(sim_host):
    token = await now(sim_host)
    await sim_host.session.events(["vm"], token, 0.0)
    batch = await sim_host.session.events(["vm"], token, 0.01)
    assert batch.events == []
    await sim_host.make_vm()
    assert len((await sim_host.session.events(["vm"], batch.token, 5.0)).events) == 1


@pytest.mark.slow
async def test_no_event_is_lost_while_others_change_things(sim_host):
    token = await now(sim_host)
    names: dict[str, str] = {}

    async def change():
        for number in range(40):
            vm = await sim_host.make_vm(f"vm-{number}")
            await sim_host.call("VM.set_name_label", vm, f"renamed-{number}")
            if number % 3 == 0:
                await sim_host.call("VM.destroy", vm)

    changing = [asyncio.ensure_future(change()) for _ in range(3)]
    while True:
        is_last = all(task.done() for task in changing)
        batch = await sim_host.session.events(["vm"], token, 0.0 if is_last else 0.01)
        token = batch.token
        for event in batch.events:
            if event["operation"] == "del":
                names.pop(event["ref"])
            else:
                names[event["ref"]] = event["snapshot"]["name_label"]
        if is_last:
            break
    truth = await sim_host.call("VM.get_all_records")
    assert names == {ref: record["name_label"] for ref, record in truth.items()}


async def test_events_are_gathered_for_a_moment_but_those_of_tasks_are_not(sim_host):
    sim_host.server.event_batch_s = 0.05
    waits: list[float] = []

    class Clock:
        def monotonic(self):
            return 0.0

        def now(self):
            return 0.0

        async def sleep(self, delay_s):
            waits.append(delay_s)

    world = sim_host.server.world
    sim_host.server.world = type(world)(Clock(), world.ids)
    token = await now(sim_host)
    await sim_host.make_vm()
    await sim_host.call("task.create", "t", "")
    await sim_host.session.events(["task"], token, 5.0)
    assert waits == []
    await sim_host.session.events(["vm"], token, 5.0)
    assert waits == [0.05]
    sim_host.server.world = world


async def test_a_client_that_lags_too_far_is_told_that_events_are_lost(sim_host, monkeypatch):
    monkeypatch.setattr(objects_module, "DELETIONS_MAX", 3)
    token = await now(sim_host)
    for _ in range(5):
        await sim_host.call("VM.destroy", await sim_host.make_vm())
    with pytest.raises(XapiFault, match="EVENTS_LOST"):
        await sim_host.session.events(["vm"], token, 0.0)
    assert (await sim_host.session.events(["vm"], "", 0.0)).events == []


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("x", "EVENT_FROM_TOKEN_PARSE_FAILURE"),
        ("1", "EVENT_FROM_TOKEN_PARSE_FAILURE"),
        ("-1,0", "EVENT_FROM_TOKEN_PARSE_FAILURE"),
        ("²,²", "EVENT_FROM_TOKEN_PARSE_FAILURE"),
        ("9" * 5000 + ",0", "EVENT_FROM_TOKEN_PARSE_FAILURE"),
        (f"{1:020d},{0:020d}", "EVENTS_LOST"),
    ],
    ids=range(6),
)
async def test_a_token_of_no_or_another_life_is_refused(sim_host, token, code):
    with pytest.raises(XapiFault, match=code):
        await sim_host.session.events(["vm"], token, 0.0)


@pytest.mark.parametrize("classes", ["vm", [["vm"]], {}, None])
async def test_a_subscription_that_is_none_is_refused(sim_host, classes):
    code = (await sim_host.fault("event.from", classes, "", 0.0))[0]
    assert code in ("EVENT_SUBSCRIPTION_PARSE_FAILURE", "FIELD_TYPE_ERROR")


async def test_a_waiter_that_hangs_up_leaves_nothing_behind(sim_host):
    token = await now(sim_host)
    waiting = asyncio.ensure_future(sim_host.session.events(["vm"], token, 60.0))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(sim_host.server.objects._waiting) == 1
    waiting.cancel()
    for _ in range(50):
        await asyncio.sleep(0)
    await sim_host.make_vm()
    assert sim_host.server.objects._waiting == []


@pytest.mark.parametrize("name", ["", "v m", "vm/a/b", "vm!", "/OpaqueRef:x"])
async def test_what_no_class_can_be_named_is_refused(sim_host, name):
    found = await sim_host.fault("event.from", [name], "", 0.0)
    assert found == ["EVENT_SUBSCRIPTION_PARSE_FAILURE", name]


async def test_a_class_of_newer_servers_tells_nothing(sim_host):
    assert (await sim_host.session.events(["Cluster_host"], "", 0.0)).events == []
