"""A process that uses a repository is killed with -9 at any moment, and no disk's byte is lost.

The process is a fork that kills itself just before its n-th change of the file system, a write
being cut in the middle, so that a seed replays. Before each call it says so in a pipe: of what
was begun all but the last must be there, and of the last all or nothing; of a write each sector,
for it was not flushed. What the same calls do to flat arrays of bytes is what must be read.
"""

import os
import random
import signal
import traceback

import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids, derive_uuid
from xenith.core.world import World
from xenith.toolstack.storage import garbage
from xenith.toolstack.storage.repository import FileRepository

MIB = 1024 * 1024
SIZE = 4 * MIB
SECTOR = 512
DISKS_MAX = 5
EFFECTS = ("pwrite", "ftruncate", "rename", "link", "unlink", "fdatasync", "fsync")


def die_at(moment):
    """Make this process kill itself before so many effects; for a child only."""
    left = [moment]

    def armed(real, is_write):
        def effect(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                if is_write:
                    descriptor, view, offset = arguments
                    cut = len(view) // 2 // SECTOR * SECTOR
                    real(descriptor, memoryview(view)[:cut], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return effect

    for name in EFFECTS:
        setattr(os, name, armed(getattr(os, name), name == "pwrite"))


def choose(chance, model, counter):
    """Choose a call: its name, its disk, and what it is given."""
    new = derive_uuid("disk", str(counter))
    if not model:
        return "create", new, None
    uuid = chance.choice(sorted(model))
    kinds = ["write"] * 6 + ["snapshot"] * 3 + ["clone", "delete", "delete"] + ["collect"] * 4
    kinds += ["create", "copy"]
    kind = chance.choice(kinds)
    if len(model) >= DISKS_MAX and kind in {"create", "snapshot", "clone", "copy"}:
        kind = "delete"
    if kind == "write":
        sector = chance.randrange(SIZE // SECTOR - 64)
        return kind, uuid, (sector * SECTOR, bytes([chance.randrange(1, 256)]) * SECTOR * 40)
    if kind == "create":
        return kind, new, None
    if kind == "collect":
        return kind, uuid, chance.choice([1, 4 * MIB, 1 << 40])
    return kind, uuid, new


def do(repository, call):
    kind, uuid, given = call
    if kind == "create":
        repository.create(uuid, SIZE)
    elif kind == "write":
        with repository.writing(uuid) as disk:
            disk.write(*given)
    elif kind == "collect":
        repository.collect(bytes_max=given)
    elif kind == "delete":
        repository.delete(uuid)
    else:
        getattr(repository, kind)(uuid, given)


def did(model, call):
    """Give what the model is after a call."""
    kind, uuid, given = call
    after = dict(model)
    if kind == "create":
        after[uuid] = bytes(SIZE)
    elif kind == "write":
        offset, data = given
        after[uuid] = after[uuid][:offset] + data + after[uuid][offset + len(data) :]
    elif kind == "delete":
        del after[uuid]
    elif kind != "collect":
        after[given] = after[uuid]
    return after


def opened(path, seed):
    world = World(clock=ManualClock(), ids=Ids(seed))
    return FileRepository(path, world=world, reserve_bytes=0)


def in_child(work, moment):
    """Run something in a fork that dies at a moment; tell how many calls it began, and if so."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            die_at(moment)
            work(lambda: os.write(writer, b"."))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must never go on as the test
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    begun = b""
    while part := os.read(reader, 65536):
        begun += part
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}, "a call failed in the child; its trace is above"
    return len(begun), status != 0


def held(repository):
    found = repository.scan()
    assert found.damaged == {}
    shown = [uuid for uuid, vdi in found.vdis.items() if not vdi.is_hidden]
    return {uuid: b"".join(repository.export_raw(uuid)) for uuid in shown}


def agree(found, before, call):
    """Hold what was found against what was, and the call that was cut off."""
    after = did(before, call)
    if call[0] == "write":
        assert set(found) == set(before)
        uuid = call[1]
        old, new, seen = before[uuid], after[uuid], found[uuid]
        for at in range(0, SIZE, SECTOR):
            piece = seen[at : at + SECTOR]
            assert piece in (old[at : at + SECTOR], new[at : at + SECTOR])
        before = {**before, uuid: seen}
        assert found == before
    else:
        assert found in (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_process_killed_at_any_moment_leaves_every_disk_whole(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(garbage, "TURN_BLOCKS", 1)
    chance = random.Random(seed)
    model, counter, deaths = {}, 0, 0
    for round_number in range(20):
        calls_seed = chance.random()
        ids = seed * 1000 + round_number

        def life(begin, calls_seed=calls_seed, ids=ids, model=model, counter=counter):
            repository = opened(tmp_path, ids)
            calls = random.Random(calls_seed)
            for number in range(12):
                call = choose(calls, model, counter + number)
                begin()
                do(repository, call)
                model = did(model, call)

        begun, is_dead = in_child(life, chance.randrange(160))
        deaths += is_dead
        calls = random.Random(calls_seed)
        done = []
        for number in range(begun):
            done.append(choose(calls, model, counter + number))
            if number < begun - is_dead:
                model = did(model, done[-1])
        counter += 12
        # Whoever puts it in order is killed too, now and then.
        if chance.random() < 0.5:
            in_child(lambda begin, ids=ids: opened(tmp_path, ids + 500), chance.randrange(12))
        with opened(tmp_path, ids + 700) as repository:
            assert not [one.name for one in tmp_path.iterdir() if one.suffix == ".new"]
            assert not [one.name for one in tmp_path.iterdir() if "_" in one.name]
            found = held(repository)
            if is_dead and done:
                agree(found, model, done[-1])
            else:
                assert found == model
            model = found
            if chance.random() < 0.3:
                assert repository.collect().is_done
                assert held(repository) == model
    with opened(tmp_path, 999_999) as repository:
        for uuid in model:
            repository.delete(uuid)
        assert repository.collect().left == {}
    assert not list(tmp_path.glob("*.vhd"))
    assert deaths > 5, "most of the children were to be killed"
