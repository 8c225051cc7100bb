"""The chooser sends no cell more than it told, spreads what it sends, and says why it did not."""

import time
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.cells.capacity import CapacityClass, ClassKey, Digest, delta, histogram, slots
from xenith.cells.choosing import (
    CELL_SILENCE_MAX_S,
    RESERVATION_LEASE_S,
    SLOW_START_S,
    CellRules,
    Choice,
    Chooser,
    NoCell,
    Wanted,
)
from xenith.core.clock import ManualClock
from xenith.core.errors import Conflict
from xenith.core.ids import Ids
from xenith.core.world import World

NOVA = ClassKey("nova")
SMALL = Wanted(ram_mib=1024, vcpus=1, disk_gib=10, project_id="blue")


def wanted(**more):
    return msgspec.structs.replace(SMALL, **more)


def room_for(count, key=NOVA):
    """One class of hosts, two small servers each, and one host for an odd one."""
    bins = [(1024, 9, 999, count % 2), (2048, 9, 999, count // 2)]
    return CapacityClass(key, tuple(bin_ for bin_ in bins if bin_[3]))


class Tree:
    """A chooser, and children that tell it what the test says."""

    def __init__(self, *, seed=1, **free):
        self.clock = ManualClock()
        self.chooser = Chooser(World(self.clock, Ids(seed)))
        self.sequence = Counter()
        for cell_id, count in free.items():
            self.add(cell_id)
            self.tell(cell_id, room_for(count))

    def add(self, cell_id, **rules):
        name = cell_id.upper()
        rules = {"below": frozenset((cell_id, name))} | rules
        self.chooser.set_rules(cell_id, CellRules(name=name, **rules))

    def digest(self, cell_id, *classes, session="s", **more):
        self.sequence[cell_id] += 1
        return Digest(
            cell_id=cell_id,
            session=session,
            sequence=self.sequence[cell_id],
            classes=classes,
            **more,
        )

    def tell(self, cell_id, *classes, **more):
        self.chooser.hear(self.digest(cell_id, *classes, **more))

    def choose(self, **more):
        return self.chooser.choose(wanted(**more))

    def cells(self, count, **more):
        """Count the choices of each cell; None counts those that none was found for."""
        return Counter(getattr(self.choose(**more), "cell_id", None) for _ in range(count))

    def free(self):
        return slots(self.chooser.classes(), *SMALL.size)


# What is free.


@pytest.mark.parametrize("seed", range(20))
def test_fifteen_requests_to_cells_with_twelve_and_ten_slots_all_succeed(seed):
    tree = Tree(seed=seed, a=12, b=10)
    sent = tree.cells(15)
    assert sent["a"] <= 12
    assert sent["b"] <= 10
    assert sent[None] == 0


def test_all_slots_are_used_and_then_no_more_is_promised():
    tree = Tree(a=12, b=10)
    assert tree.cells(23) == {"a": 12, "b": 10, None: 1}
    assert tree.free() == 0


def test_a_digest_that_does_not_show_a_build_keeps_its_reservation():
    tree = Tree(a=4)
    first, second = tree.choose(), tree.choose()
    tree.chooser.accepted(first.reservation_id, 1)
    tree.chooser.accepted(second.reservation_id, 2)
    tree.tell("a", room_for(4), decisions=0)  # counted before either
    assert tree.free() == 2
    tree.tell("a", room_for(3), decisions=1)  # shows the first
    assert tree.free() == 2
    tree.tell("a", room_for(2), decisions=2)
    assert tree.free() == 2


def test_an_answer_that_comes_after_the_digest_that_shows_it_frees_the_reservation():
    tree = Tree(a=4)
    found = tree.choose()
    tree.tell("a", room_for(3), decisions=1)
    assert tree.free() == 2  # counted twice for a moment, which is the safe side
    tree.chooser.accepted(found.reservation_id, 1)
    assert tree.free() == 3


def test_a_delta_keeps_reservations_that_it_does_not_show():
    tree = Tree(a=4)
    tree.choose()
    held = tree.digest("a", room_for(4))
    tree.chooser.hear(held)
    tree.chooser.hear_delta(delta(held, tree.digest("a", room_for(6))))
    assert tree.free() == 5


def test_a_refused_build_gives_its_room_back_once():
    tree = Tree(a=4)
    found = tree.choose()
    assert tree.free() == 3
    for _ in range(2):
        tree.chooser.refused(found.reservation_id)
        assert tree.free() == 4
    tree.chooser.accepted(found.reservation_id, 1)
    assert tree.free() == 4


async def test_a_reservation_that_nothing_is_heard_of_ends_with_its_lease():
    tree = Tree(a=1)
    tree.choose()
    await tree.clock.advance(RESERVATION_LEASE_S - 0.1)
    tree.chooser.note_alive("a")
    assert isinstance(tree.choose(), NoCell)
    await tree.clock.advance(0.1)
    assert tree.choose().cell_id == "a"


def test_a_new_session_shows_what_the_last_one_accepted_and_nothing_else():
    tree = Tree(a=6)
    accepted, asked = tree.choose(), tree.choose()
    tree.chooser.accepted(accepted.reservation_id, 900)
    tree.tell("a", room_for(5), session="t", decisions=0)
    assert tree.free() == 4
    tree.chooser.accepted(asked.reservation_id, 1, session="t")
    tree.tell("a", room_for(4), session="t", decisions=1)
    assert tree.free() == 4


def test_a_decision_of_a_session_not_heard_of_yet_is_not_taken_for_one_of_the_last():
    tree = Tree(a=6)
    tree.tell("a", room_for(6), decisions=900)
    found = tree.choose()
    tree.chooser.accepted(found.reservation_id, 1, session="t")
    assert tree.free() == 5
    tree.tell("a", room_for(6), decisions=901)  # late, of the old session
    assert tree.free() == 5


def test_an_old_or_repeated_digest_changes_nothing_and_is_no_sign_of_life():
    tree = Tree(a=4)
    old, new = tree.digest("a", room_for(9)), tree.digest("a", room_for(2))
    tree.chooser.hear(new)
    tree.chooser.note_dead("a", "its link is cut")
    tree.chooser.hear(old)
    tree.chooser.hear(new)
    tree.chooser.hear_delta(delta(old, new))
    assert tree.chooser.is_dead("a")
    tree.chooser.note_alive("a")
    assert tree.free() == 2


def test_a_delta_that_does_not_follow_is_refused():
    tree = Tree(a=4)
    one, two, three = (tree.digest("a", room_for(count)) for count in (1, 2, 3))
    with pytest.raises(Conflict):
        tree.chooser.hear_delta(delta(one, two))
    with pytest.raises(Conflict):
        tree.chooser.hear_delta(delta(two, three))
    with pytest.raises(Conflict):
        tree.chooser.hear_delta(msgspec.structs.replace(delta(two, three), cell_id="unknown"))


steps = st.lists(st.sampled_from(["choose", "answer", "tell", "hear"]), max_size=60)


@given(steps, st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_cell_that_only_this_chooser_builds_on_is_never_asked_for_more_than_it_has(
    steps, host_count, seed
):
    """Answers and digests come late and in any order of each other; the child never says no."""
    tree = Tree(seed=seed)
    tree.add("a")
    free, accepted = [3] * host_count, 0
    answers, digests = [], []

    def tell():
        keys, zeros, vcpus = [NOVA], [0] * host_count, [9] * host_count
        classes = histogram(keys, zeros, [1024 * each for each in free], vcpus, [999] * host_count)
        digests.append(tree.digest("a", *classes, decisions=accepted))

    tell()
    tree.chooser.hear(digests.pop())
    for step in steps:
        if step == "choose":
            found = tree.choose()
            if isinstance(found, Choice):
                assert max(free) > 0, "the child was asked for more than it has"
                host = max(range(host_count), key=free.__getitem__)
                free[host] -= 1
                accepted += 1
                answers.append((found.reservation_id, accepted))
        elif step == "answer" and answers:
            tree.chooser.accepted(*answers.pop(tree.chooser.world.ids.below(len(answers))))
        elif step == "tell":
            tell()
        elif step == "hear" and digests:
            tree.chooser.hear(digests.pop(tree.chooser.world.ids.below(len(digests))))
    for answer in answers:
        tree.chooser.accepted(*answer)
    tell()
    tree.chooser.hear(digests[-1])
    assert tree.free() == sum(free)


# Who answers.


async def test_a_silent_cell_is_left_out_after_five_seconds_and_the_reason_says_so():
    tree = Tree(a=100, b=2)
    await tree.clock.advance(CELL_SILENCE_MAX_S - 0.5)
    tree.chooser.note_alive("b")
    assert not tree.chooser.is_dead("a")
    await tree.clock.advance(0.5)
    assert tree.chooser.is_dead("a")
    found = tree.choose()
    assert found.cell_id == "b"
    [miss] = found.explanation.misses
    assert (miss.cell_id, miss.filter, miss.text) == ("a", "alive", "silent for 5.0 s")
    assert tree.free() == 1  # the parents are told so too


def test_a_cell_held_to_be_dead_is_out_at_once_until_it_gives_a_sign():
    tree = Tree(a=4)
    tree.chooser.note_dead("a", "its link was refused")
    found = tree.choose()
    assert isinstance(found, NoCell)
    assert "dead: its link was refused" in found.detail
    assert "refused" not in found.reason
    tree.chooser.note_alive("a")
    assert tree.choose().cell_id == "a"


async def test_a_request_waits_for_an_open_cell_that_is_silent_or_unheard():
    tree = Tree(a=4, full=0)
    await tree.clock.advance(6)
    tree.chooser.note_alive("full")
    assert tree.choose().is_waiting
    assert not tree.choose(ram_mib=4096).is_waiting  # by its last word it has no such host
    assert not tree.choose(zone="elsewhere").is_waiting
    assert not tree.choose(tried=("a",)).is_waiting
    tree.add("new")
    assert tree.choose(ram_mib=4096).is_waiting
    tree.add("new", state="closed")
    assert not tree.choose(ram_mib=4096).is_waiting


def test_full_cells_are_not_waited_for():
    found = Tree(a=0, b=0).choose()
    assert not found.is_waiting
    assert found.reason == ("No valid host was found: no host has enough room free for the flavor.")
    assert found.detail.startswith("2 cells; room leaves 0. A: has no host with room")


def test_a_cloud_without_cells_says_so():
    found = Chooser(World(ManualClock(), Ids(1))).choose(SMALL)
    assert found.reason == (
        "No valid host was found: no part of the cloud is open for new servers."
    )
    assert not found.is_waiting


async def test_a_cell_that_came_back_starts_slowly():
    tree = Tree(a=100, b=100)
    await tree.clock.advance(6)
    for cell_id in ("a", "b"):
        tree.chooser.note_alive(cell_id)
    assert weights(tree) == {"a": 10.0, "b": 10.0}
    await tree.clock.advance(4)
    tree.chooser.note_alive("b")
    await tree.clock.advance(2)
    tree.chooser.note_alive("b")
    tree.chooser.note_alive("a")  # came back a second time, b did not
    assert weights(tree) == {"a": 10.0, "b": 28.0}
    for _ in range(int(SLOW_START_S) // 3):
        await tree.clock.advance(3)
        for cell_id in ("a", "b"):
            tree.chooser.note_alive(cell_id)
    assert weights(tree) == {"a": 100.0, "b": 100.0}


async def test_a_cell_back_from_death_gets_a_tenth_of_its_share():
    tree = Tree(a=1000, b=1000)
    tree.chooser.note_dead("a", "killed")
    tree.chooser.note_alive("a")
    assert 10 <= tree.cells(200)["a"] <= 30


def test_a_cell_heard_for_the_first_time_has_its_full_share():
    assert weights(Tree(a=100)) == {"a": 100.0}


def weights(tree):
    found = tree.choose()
    tree.chooser.refused(found.reservation_id)
    return {one.cell_id: one.weight for one in found.explanation.sampled}


# How it is spread.


def test_choosers_with_the_same_copy_do_not_all_take_the_same_cell():
    first = Counter(Tree(seed=seed, a=12, b=10, c=11).choose().cell_id for seed in range(300))
    assert min(first.values()) > 60


def test_builds_are_spread_by_free_slots_and_weight():
    tree = Tree(a=1000, b=1000, c=4000)
    tree.add("b", weight=2.0)
    sent = tree.cells(700)
    assert 80 <= sent["a"] <= 120
    assert 170 <= sent["b"] <= 230
    assert 360 <= sent["c"] <= 440


def test_a_weight_offset_puts_a_cell_before_or_behind_all_others():
    tree = Tree(a=50, b=50)
    tree.add("b", weight_offset=1e9)
    assert tree.cells(50) == {"b": 50}
    tree.add("a", weight_offset=1e308)
    tree.add("b", weight=1e308)
    assert tree.cells(50) == {"a": 50}
    tree = Tree(a=50, b=50)
    tree.add("b", weight=0)
    assert tree.cells(60) == {"a": 50, "b": 10}


def test_a_cell_that_is_slow_to_answer_gets_no_more_than_its_share():
    tree = Tree(a=1000, b=1000, c=1000)
    sent = Counter()
    for number in range(300):
        found = tree.choose()
        sent[found.cell_id] += 1
        if found.cell_id != "c":
            tree.chooser.accepted(found.reservation_id, number)
            tree.tell(found.cell_id, room_for(1000), decisions=number)
    assert sent["c"] < 10


# What the operator and the tenant ask.


def test_a_closed_cell_is_built_on_only_when_it_is_the_target():
    tree = Tree(a=2, b=2)
    tree.add("a", state="closed")
    assert tree.cells(3) == {"b": 2, None: 1}
    assert tree.free() == 0  # a closed child counts for nothing
    assert tree.choose(target_cells=("A",)).cell_id == "a"
    assert tree.choose(target_cells=("a",)).cell_id == "a"
    assert isinstance(tree.choose(target_cells=("a",)), NoCell)


def test_a_draining_cell_is_built_on_for_nobody():
    tree = Tree(a=2)
    tree.add("a", state="draining")
    assert isinstance(tree.choose(), NoCell)
    found = tree.choose(target_cells=("a",))
    assert "A: is draining" in found.detail


def test_a_target_below_a_child_lets_the_child_pass_whatever_its_digest_says():
    tree = Tree(a=5, b=0)
    tree.add("b", below=frozenset(("b", "B", "b1", "B1")))
    assert tree.cells(5, target_cells=("B1",)) == {"b": 5}
    assert tree.choose(target_cells=("b1",), zone="of-b1").cell_id == "b"
    assert isinstance(tree.choose(target_cells=("b",)), NoCell)
    assert isinstance(tree.choose(target_cells=("nowhere",)), NoCell)


def test_a_target_below_a_child_that_has_told_of_no_hosts_yet_lets_the_child_pass():
    tree = Tree()
    tree.add("b", below=frozenset(("b", "B", "b1", "B1")))
    tree.tell("b")
    assert tree.choose(target_cells=("b1",)).cell_id == "b"
    assert isinstance(tree.choose(), NoCell)


def test_a_class_that_is_told_no_more_leaves_nothing_behind():
    tree = Tree(a=5, b=5)
    tree.tell("b", *(room_for(3, ClassKey(zone=f"z{each}")) for each in range(40)))
    tree.tell("b")
    for _ in range(5):
        assert tree.choose(zone="nova").cell_id == "a"
    assert isinstance(tree.choose(zone="z7"), NoCell)


def test_a_target_above_the_chooser_is_met_already():
    tree = Tree(a=5)
    tree.chooser.own_names = frozenset(("dfw",))
    assert tree.choose(target_cells=("dfw",)).cell_id == "a"
    assert isinstance(tree.choose(target_cells=("ord",)), NoCell)


def test_a_different_cell_hint_leaves_out_only_the_cell_that_it_names():
    tree = Tree(a=5, b=5)
    tree.add("a", below=frozenset(("a", "A", "a1")))
    assert tree.cells(5, different_cells=("A",)) == {"b": 5}
    assert tree.cells(5, different_cells=("a1",)) == {"a": 5}
    assert isinstance(tree.choose(different_cells=("a", "b")), NoCell)


def test_a_cell_that_refused_is_not_asked_again():
    tree = Tree(a=5, b=5)
    assert tree.cells(6, tried=("a",)) == {"b": 5, None: 1}
    assert tree.choose(tried=("a", "b")).reason == (
        "No valid host was found: every part of the cloud that could hold it has refused it."
    )


def test_a_cell_dedicated_to_projects_takes_no_other():
    tree = Tree(a=3, b=3)
    tree.add("a", projects=("red",))
    assert tree.cells(4) == {"b": 3, None: 1}
    assert tree.choose(project_id="red").cell_id == "a"
    [told] = [one for one in tree.chooser.classes() if one.bins]
    assert told.key == ClassKey("nova", projects=("red",))  # parents keep to it as well


def test_a_class_of_hosts_dedicated_to_projects_takes_no_other():
    tree = Tree()
    tree.add("a")
    tree.tell("a", room_for(2), room_for(3, ClassKey("nova", projects=("red",))))
    assert tree.cells(3) == {"a": 2, None: 1}
    assert tree.cells(4, project_id="red") == {"a": 3, None: 1}


def test_rules_of_cell_and_class_must_both_let_a_flavor_in():
    tree = Tree()
    tree.add("a", flavor_classes=("memory", "io"))
    tree.tell("a", room_for(2, ClassKey("nova", flavor_classes=("io", "compute"))))
    assert isinstance(tree.choose(), NoCell)
    assert isinstance(tree.choose(flavor_class="memory"), NoCell)
    assert isinstance(tree.choose(flavor_class="compute"), NoCell)
    assert [one.key.flavor_classes for one in tree.chooser.classes()] == [("io",)]
    assert tree.choose(flavor_class="io").cell_id == "a"
    tree.add("a", flavor_classes=("memory",))
    assert tree.chooser.classes() == ()


def test_zone_and_capabilities_must_be_of_one_class_with_room():
    tree = Tree()
    tree.add("a")
    tree.tell(
        "a",
        room_for(1, ClassKey("east", capabilities=("disk=ssd", "gpu=none"))),
        room_for(0, ClassKey("west", capabilities=("disk=ssd",))),
        room_for(1, ClassKey("west")),
    )
    for more, last in (
        ({"zone": "north"}, "zone"),
        ({"zone": "east", "capabilities": ("disk=hdd",)}, "capabilities"),
        ({"zone": "west", "capabilities": ("disk=ssd",)}, "room"),
    ):
        found = tree.choose(**more)
        assert found.explanation.filters[-1].name == last
        assert found.explanation.filters[-1].cells_left == 0
    assert tree.choose(zone="east", capabilities=("gpu=none", "disk=ssd")).cell_id == "a"
    assert tree.cells(2) == {"a": 1, None: 1}


# What comes and goes.


def test_a_forgotten_cell_leaves_nothing_behind():
    tree = Tree(a=3, b=3)
    found = tree.choose(tried=("b",))
    tree.chooser.forget("a")
    tree.chooser.forget("a")
    tree.chooser.accepted(found.reservation_id, 1)
    tree.chooser.refused(found.reservation_id)
    assert tree.free() == 3
    assert tree.chooser.is_dead("a")
    tree.add("c")
    assert tree.choose(tried=("b",)).explanation.cell_count == 2
    assert tree.cells(4) == {"b": 3, None: 1}
    tree.tell("c", room_for(1))
    assert tree.choose().cell_id == "c"


def test_a_cell_that_is_not_in_the_topology_is_not_built_on():
    tree = Tree()
    tree.tell("a", room_for(3))
    assert isinstance(tree.choose(), NoCell)
    assert tree.free() == 0
    tree.add("a")
    assert tree.choose().cell_id == "a"


def test_classes_that_no_cell_has_any_more_are_dropped():
    tree = Tree(b=3)
    tree.add("a")
    held = tree.choose(tried=("a",))
    for number in range(500):
        tree.tell("a", room_for(2, ClassKey(f"zone-{number}")))
    assert len(tree.chooser._keys) < 100
    assert tree.choose(zone="zone-499").cell_id == "a"
    assert isinstance(tree.choose(zone="zone-498"), NoCell)
    tree.chooser.refused(held.reservation_id)
    assert tree.free() == 4


def test_totals_add_up_the_children_and_count_silent_ones_as_down():
    tree = Tree()
    for cell_id in ("a", "b"):
        tree.add(cell_id)
        tree.tell(
            cell_id, room_for(2), host_count=10, hosts_up_count=9, server_count=50, decisions=7
        )
    tree.chooser.note_dead("b", "killed")
    total = tree.chooser.totals()
    assert (total.host_count, total.hosts_up_count, total.server_count) == (20, 9, 100)
    assert total.classes == (room_for(2),)


def test_the_account_of_a_choice_is_small_and_plain():
    tree = Tree(**{f"c{number}": 0 for number in range(50)})
    found = tree.choose()
    told = msgspec.json.encode(found.explanation)
    assert len(found.explanation.misses) == 10
    assert len(told) < 2000
    assert msgspec.json.decode(told, type=type(found.explanation)) == found.explanation
    chosen = Tree(a=2, b=2).choose()
    assert [one.name for one in chosen.explanation.filters][-1] == "room"
    assert len(msgspec.json.encode(chosen.explanation)) < 1000


def test_the_same_seed_makes_the_same_choices():
    one, other = (Tree(seed=5, a=50, b=50, c=50) for _ in range(2))
    for _ in range(40):
        assert one.choose() == other.choose()


@pytest.mark.slow
def test_choosing_among_five_hundred_cells_takes_less_than_a_millisecond():
    tree = Tree()
    for number in range(500):
        tree.add(f"c{number}")
        bins = tuple((1024 * each, each, 10 * each, 3) for each in range(1, 21))
        tree.tell(f"c{number}", CapacityClass(NOVA, bins))
    took = []
    for number in range(300):
        size = {"ram_mib": 1024 * (1 + number % 7), "vcpus": 1 + number % 3}
        start = time.perf_counter()
        tree.choose(**size)
        took.append(time.perf_counter() - start)
    assert sorted(took)[150] < 0.001
