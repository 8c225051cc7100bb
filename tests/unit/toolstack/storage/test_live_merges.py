"""Chains get shorter below a domain that writes all the time, and it never finds other bytes."""

import contextlib
import random
from pathlib import Path

import pytest

from xenith.core.ids import derive_uuid
from xenith.toolstack.tap.disk import TapDisk

MIB = 1024 * 1024
A, B, C = (derive_uuid(name) for name in "abc")


class Guest:
    """A domain's disk, served as by a tap, and what its bytes are to be."""

    def __init__(self, sr, uuid, size_bytes):
        self.sr, self.uuid = sr, uuid
        self.tap = TapDisk(Path(sr.activate(uuid, is_writable=True)), is_read_only=False)
        self.bytes = bytearray(size_bytes)
        self.read(self.bytes)

    def read(self, into):
        self.tap.read_into(0, memoryview(into))

    def write(self, offset, data):
        self.tap.write(offset, memoryview(data))
        self.bytes[offset : offset + len(data)] = data

    def check(self):
        found = bytearray(len(self.bytes))
        self.read(found)
        assert found == self.bytes

    def snapshot(self, new):
        with self.held():
            self.sr.snapshot(self.uuid, new, is_quiet=True)

    @contextlib.contextmanager
    def held(self):
        self.tap.hold()
        try:
            yield
        finally:
            self.tap.go_on()

    def stop(self):
        self.tap.close()
        self.sr.deactivate(self.uuid, is_writable=True)


def collect(guest):
    """All that there is to do while the guest lives; gives the last of what was done."""
    while True:
        done = guest.sr.collect(bytes_max=2 * MIB)
        guest.check()
        if done.writers:
            assert done.writers == [guest.uuid]
            with guest.held():
                done = guest.sr.end_merge(done.writers)
            guest.check()
        elif done.is_done:
            return done


def bytes_of(sr, uuid):
    return bytearray(b"".join(sr.export_raw(uuid)))


def test_a_disk_that_is_snapshot_without_end_has_a_short_chain(sr):
    sr.create(A, 8 * MIB)
    guest = Guest(sr, A, 8 * MIB)
    for number in range(70):
        guest.write(number % 16 * 4096, bytes([number + 1]) * 4096)
        snapshot = derive_uuid("snapshot", str(number))
        guest.snapshot(snapshot)
        sr.delete(snapshot)
        collect(guest)
        assert sr.get(A).depth <= 3
    guest.check()
    guest.stop()
    sr.collect()
    assert sr.get(A).depth == 1
    assert bytes_of(sr, A) == guest.bytes


def test_nothing_is_turned_while_its_writer_is_not_held(sr):
    sr.create(A, 8 * MIB)
    guest = Guest(sr, A, 8 * MIB)
    for new in (B, C):
        guest.write(0, b"x" * 512)
        guest.snapshot(new)
        sr.delete(new)
    done = sr.collect()
    assert done.writers == [A]
    assert sr.get(A).depth == 3
    ended = sr.end_merge([])
    assert list(ended.left.values()) == ["another came to write to what stands on it"]
    assert sr.get(A).depth == 3
    guest.check()
    collect(guest)
    assert sr.get(A).depth == 2
    guest.stop()


def test_a_merge_waits_for_who_reads_what_stands_on_it(sr):
    sr.create(A, 8 * MIB)
    guest = Guest(sr, A, 8 * MIB)
    for new in (B, C):
        guest.write(0, new.encode().ljust(512))
        guest.snapshot(new)
    kept = bytes(guest.bytes)
    guest.write(0, b"y" * 512)
    sr.delete(B)
    assert sr.collect().writers == [A]
    with sr.reading(C) as chain:
        with guest.held():
            done = sr.end_merge([A])
        assert [why for why in done.left.values() if "in use" in why]
        assert chain.read(0, 8 * MIB) == kept
    collect(guest)
    assert sr.get(C).depth == 2
    assert bytes_of(sr, C) == kept
    guest.stop()


def test_a_domain_that_lives_on_keeps_its_disk_when_a_merge_was_cut_off(opened, path):
    sr = opened()
    sr.create(A, 8 * MIB)
    guest = Guest(sr, A, 8 * MIB)
    for new in (B, C):
        guest.write(0, new.encode().ljust(512))
        guest.snapshot(new)
        sr.delete(new)
    assert sr.collect().writers == [A]
    # The toolstack dies and comes back while the domain writes on.
    sr.close()
    assert list(path.glob("coalesce_*"))
    guest.write(512, b"z" * 512)
    again = opened()
    again.activate(A, is_writable=True)
    guest.sr = again
    guest.check()
    collect(guest)
    assert again.get(A).depth == 2
    guest.stop()
    assert bytes_of(again, A) == guest.bytes


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_writes_snapshots_deletes_and_merges_loses_nothing(sr, seed):
    chance = random.Random(seed)
    sr.create(A, 6 * MIB)
    guest = Guest(sr, A, 6 * MIB)
    kept = {}
    for number in range(60):
        match chance.randrange(6):
            case 0 | 1 | 2:
                length = chance.choice((512, 4096, 65536, 3 * MIB // 2))
                offset = chance.randrange((len(guest.bytes) - length) // 512 + 1) * 512
                guest.write(offset, bytes([chance.randrange(256)]) * length)
            case 3:
                snapshot = derive_uuid("snapshot", str(number))
                guest.snapshot(snapshot)
                kept[snapshot] = bytes(guest.bytes)
            case 4 if kept:
                gone = chance.choice(list(kept))
                sr.delete(gone)
                del kept[gone]
            case _:
                done = sr.collect(bytes_max=chance.choice((1, 4 * MIB)))
                if done.writers and chance.randrange(3):
                    with guest.held():
                        sr.end_merge(done.writers)
        guest.check()
    collect(guest)
    for uuid, held in kept.items():
        assert bytes_of(sr, uuid) == held
    guest.check()
    guest.stop()
    # In a chain of hidden disks none has one child alone, but for the one below the guest.
    assert sr.get(A).depth <= len(kept) + 2
