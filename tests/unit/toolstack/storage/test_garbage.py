"""Chains get shorter and garbage goes, while disks are used and keep their bytes."""

import threading

import pytest

from xenith.core.ids import derive_uuid
from xenith.toolstack.storage import garbage
from xenith.toolstack.storage.turns import Turns

MIB = 1024 * 1024
A, B, C, D = (derive_uuid(name) for name in "abcd")


def put(repository, uuid, offset, data):
    with repository.writing(uuid) as disk:
        disk.write(offset, data)


def bytes_of(repository, uuid):
    return b"".join(repository.export_raw(uuid))


def vhds(path):
    return sorted(one.name for one in path.glob("*.vhd"))


def build(sr, count=4):
    """A disk with so many snapshots, each of other bytes; gives what each holds."""
    sr.create(A, 8 * MIB)
    held = {}
    for number in range(count):
        put(sr, A, number * 2 * MIB, bytes([number + 1]) * 1024)
        put(sr, A, 0, bytes([number + 65]) * 512)
        snapshot = derive_uuid("snapshot", str(number))
        sr.snapshot(A, snapshot)
        held[snapshot] = bytes_of(sr, snapshot)
    put(sr, A, 512, b"L" * 512)
    held[A] = bytes_of(sr, A)
    return held


def test_the_bases_of_two_deleted_leaves_are_removed(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    base = sr.get(A).parent
    sr.delete(A)
    sr.delete(B)
    assert vhds(path) == [f"{base}.vhd"]
    assert sr.scan().vdis == {}
    done = sr.collect()
    assert done.deleted == [base]
    assert done.is_done
    assert vhds(path) == []


def test_a_disk_without_its_snapshots_is_one_file_again(sr, path):
    held = build(sr)
    for snapshot in held:
        if snapshot != A:
            sr.delete(snapshot)
    done = sr.collect()
    assert done.is_done
    assert done.left == {}
    assert len(done.coalesced) == 4
    assert vhds(path) == [f"{A}.vhd"]
    assert not sr.get(A).is_hidden
    assert bytes_of(sr, A) == held[A]


def test_only_what_no_snapshot_needs_is_merged(sr):
    held = build(sr)
    kept = derive_uuid("snapshot", "1")
    for snapshot in set(held) - {A, kept}:
        sr.delete(snapshot)
    sr.collect()
    assert sr.get(A).depth == 2
    assert sr.get(kept).depth == 2
    assert sr.get(A).parent == sr.get(kept).parent
    for uuid in (A, kept):
        assert bytes_of(sr, uuid) == held[uuid]


def test_nothing_is_done_to_what_is_shared(sr, path):
    build(sr)
    before = vhds(path)
    done = sr.collect()
    assert done.is_done
    assert (done.deleted, done.coalesced, done.left) == ([], [], {})
    assert vhds(path) == before


def test_a_chain_that_is_read_is_left_alone_and_said_so(sr, path):
    held = build(sr, 2)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    before = vhds(path)
    sr.activate(A, is_writable=False)
    done = sr.collect()
    assert done.is_done
    assert all("in use" in why for why in done.left.values())
    assert A in done.left
    assert vhds(path) == before
    sr.deactivate(A, is_writable=False)
    sr.collect()
    assert vhds(path) == [f"{A}.vhd"]
    assert bytes_of(sr, A) == held[A]


def test_an_activation_is_bounded_and_the_next_goes_on(sr, monkeypatch):
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    held = build(sr)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    turns = 0
    while not sr.collect(bytes_max=1).is_done:
        turns += 1
        assert turns < 100
    assert turns > 8
    assert sr.get(A).depth == 1
    assert bytes_of(sr, A) == held[A]


def at_each_step(sr, monkeypatch, act):
    """Stop the collection after each number of turns, and do something then."""
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    held = build(sr)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    expected = held[A]
    for number in range(60):
        if sr.collect(bytes_max=1).is_done:
            break
        expected = act(number, expected)
        assert bytes_of(sr, A) == expected
    sr.collect()
    assert bytes_of(sr, A) == expected
    return expected


@pytest.mark.slow
def test_writes_between_any_two_steps_are_kept(sr, monkeypatch):
    def act(number, expected):
        if number % 3 == 2:
            put(sr, A, number * 512, bytes([number + 1]) * 512)
            return (
                expected[: number * 512]
                + bytes([number + 1]) * 512
                + expected[number * 512 + 512 :]
            )
        return expected

    at_each_step(sr, monkeypatch, act)


@pytest.mark.slow
def test_a_snapshot_between_any_two_steps_keeps_what_was(sr, monkeypatch):
    taken = {}

    def act(number, expected):
        if number % 5 == 4:
            snapshot = derive_uuid("between", str(number))
            sr.snapshot(A, snapshot)
            put(sr, A, 1024, bytes([number]) * 512)
            taken[snapshot] = expected
            return expected[:1024] + bytes([number]) * 512 + expected[1536:]
        return expected

    at_each_step(sr, monkeypatch, act)
    assert taken
    for snapshot, held in taken.items():
        assert bytes_of(sr, snapshot) == held


def test_a_disk_that_is_read_from_before_a_merge_to_after_it_does_not_change(sr, monkeypatch):
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    held = build(sr)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    sr.collect(bytes_max=1)
    sr.collect(bytes_max=1)
    with sr.reading(A) as chain:
        for _ in range(12):
            sr.collect(bytes_max=1)
            assert chain.read(0, 8 * MIB) == held[A]
    sr.collect()
    assert sr.get(A).depth == 1
    assert bytes_of(sr, A) == held[A]


def test_a_disk_deleted_in_the_middle_of_its_merge_leaves_nothing(sr, path, monkeypatch):
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    held = build(sr)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    sr.collect(bytes_max=1)
    sr.delete(A)
    for _ in range(3):
        sr.collect()
    assert vhds(path) == []


def test_a_merge_without_room_is_left_with_its_reason(opened):
    free = [10**12]
    sr = opened(measure=lambda _: free[0])
    held = build(sr, 2)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    free[0] = 1000
    done = sr.collect()
    assert done.coalesced == []
    assert any("1000 are free" in why for why in done.left.values())
    free[0] = 10**12
    sr.collect()
    assert bytes_of(sr, A) == held[A]
    assert sr.get(A).depth == 1


def test_a_merge_left_open_is_carried_on_by_who_opens_the_repository_next(opened, monkeypatch):
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    sr = opened()
    held = build(sr)
    for snapshot in set(held) - {A}:
        sr.delete(snapshot)
    depth = sr.get(A).depth
    for _ in range(2):
        sr.collect(bytes_max=1)
    sr.close()
    sr = opened()
    assert sr.get(A).depth == depth - 1
    assert bytes_of(sr, A) == held[A]
    sr.collect()
    assert sr.get(A).depth == 1
    assert bytes_of(sr, A) == held[A]


def test_strangers_files_are_left_to_strangers(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    base = sr.get(A).parent
    sr.delete(A)
    sr.delete(B)
    (path / f"{base}.vhd").rename(path / "kept.vhd")
    assert sr.collect().deleted == []
    assert vhds(path) == ["kept.vhd"]


def test_a_caller_who_waits_goes_before_the_work_behind():
    turns, order, is_waiting = Turns(), [], threading.Event()

    def caller():
        is_waiting.set()
        with turns.call():
            order.append("caller")

    def worker():
        with turns.background():
            order.append("background")

    threads = []
    with turns.call():
        threads.append(threading.Thread(target=worker))
        threads[-1].start()
        threads.append(threading.Thread(target=caller))
        threads[-1].start()
        assert is_waiting.wait(10)
        while not turns._waiting_count:
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join(10)
    assert order == ["caller", "background"]


@pytest.mark.slow
def test_callers_in_threads_and_the_work_behind_keep_every_disk(sr, path, monkeypatch):
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    failures, is_over = [], threading.Event()

    def use(number):
        try:
            disk, expected = derive_uuid("disk", str(number)), bytearray(4 * MIB)
            sr.create(disk, 4 * MIB)
            for turn in range(12):
                put(sr, disk, turn * 4096, bytes([turn + 1]) * 1024)
                expected[turn * 4096 : turn * 4096 + 1024] = bytes([turn + 1]) * 1024
                snapshot = derive_uuid("of", str(number), str(turn))
                sr.snapshot(disk, snapshot)
                put(sr, disk, 2 * MIB + turn * 512, bytes([turn + 1]) * 512)
                assert bytes_of(sr, snapshot) == expected
                at = 2 * MIB + turn * 512
                expected[at : at + 512] = bytes([turn + 1]) * 512
                sr.delete(snapshot)
            assert bytes_of(sr, disk) == expected
        except BaseException as error:
            failures.append(error)
            raise

    def collect():
        try:
            while not is_over.is_set():
                sr.collect()
        except BaseException as error:
            failures.append(error)
            raise

    collector = threading.Thread(target=collect)
    callers = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    for thread in (collector, *callers):
        thread.start()
    for thread in callers:
        thread.join(60)
    is_over.set()
    collector.join(60)
    assert failures == []
    assert sr.collect().left == {}
    assert vhds(path) == sorted(f"{derive_uuid('disk', str(number))}.vhd" for number in range(3))
