"""Disks in a directory, made, forked, copied and removed, on real files."""

import subprocess

import pytest

from xenith.core.ids import derive_uuid
from xenith.toolstack.backends import BackendError
from xenith.toolstack.storage.repository import FileRepository
from xenith.vhd.alter import set_hidden
from xenith.vhd.create import create_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image

MIB = 1024 * 1024
A, B, C, D = (derive_uuid(name) for name in "abcd")


def put(repository, uuid, offset, data):
    with repository.writing(uuid) as disk:
        disk.write(offset, data)


def bytes_of(repository, uuid):
    return b"".join(repository.export_raw(uuid))


def vhds(path):
    return sorted(one.name for one in path.glob("*.vhd"))


def refused(code):
    return pytest.raises(BackendError, match=code)


def test_a_disk_is_a_vhd_of_its_uuid_in_whole_blocks_of_zeros(sr, path):
    sr.create(A, 3 * MIB)
    assert vhds(path) == [f"{A}.vhd"]
    assert sr.get(A).size_bytes == 4 * MIB
    assert bytes_of(sr, A) == bytes(4 * MIB)


def test_making_a_disk_again_changes_nothing(sr):
    sr.create(A, 4 * MIB)
    put(sr, A, 512, b"x" * 512)
    sr.create(A, 4 * MIB)
    assert bytes_of(sr, A)[512:1024] == b"x" * 512


@pytest.mark.parametrize("uuid", ["../escape", "x", "", A.upper(), A + "\0", "*"])
def test_a_name_that_is_no_uuid_makes_no_file(sr, path, uuid):
    with refused("UUID_INVALID"):
        sr.create(uuid, MIB)
    assert vhds(path) == []
    assert vhds(path.parent) == []


@pytest.mark.parametrize(
    ("size", "code"),
    [(0, "SR_BACKEND_FAILURE_79"), (-1, "SR_BACKEND_FAILURE_79"), (2041 << 30, "VDI_TOO_LARGE")],
)
def test_a_size_that_no_vhd_has_is_refused(sr, size, code):
    with refused(code):
        sr.create(A, size)


def test_a_disk_grows_with_zeros_and_never_shrinks(sr):
    sr.create(A, 2 * MIB)
    put(sr, A, 0, b"y" * 512)
    sr.resize(A, 4 * MIB)
    assert bytes_of(sr, A) == b"y" * 512 + bytes(4 * MIB - 512)
    with pytest.raises(BackendError) as told:
        sr.resize(A, 2 * MIB)
    assert told.value.code == "VDI_TOO_SMALL"
    assert told.value.params == (A, str(4 * MIB))


def test_a_snapshot_makes_two_leaves_on_a_hidden_parent(sr):
    sr.create(A, 4 * MIB)
    put(sr, A, 0, b"1" * 512)
    sr.snapshot(A, B)
    put(sr, A, 512, b"2" * 512)
    base = sr.get(A).parent
    assert sr.get(B).parent == base
    told = sr.get(base)
    assert told.is_hidden
    assert set(told.children) == {A, B}
    assert (sr.get(A).depth, sr.get(B).depth, told.depth) == (2, 2, 1)
    assert bytes_of(sr, A) == b"1" * 512 + b"2" * 512 + bytes(4 * MIB - 1024)
    assert bytes_of(sr, B) == b"1" * 512 + bytes(4 * MIB - 512)


def test_a_snapshot_taken_again_under_its_name_is_the_first_one(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    put(sr, A, 0, b"z" * 512)
    before = vhds(path)
    sr.snapshot(A, B)
    assert vhds(path) == before
    assert bytes_of(sr, B) == bytes(2 * MIB)


def test_clones_of_a_disk_without_own_bytes_share_its_parent_and_chains_stay_short(sr):
    sr.create(A, 2 * MIB)
    put(sr, A, 0, b"i" * 512)
    clones = [derive_uuid("clone", str(number)) for number in range(5)]
    for clone in clones:
        sr.clone(A, clone)
    assert {sr.get(clone).depth for clone in clones} == {2}
    assert len({sr.get(clone).parent for clone in [A, *clones]}) == 1
    put(sr, clones[0], 0, b"j" * 512)
    assert bytes_of(sr, clones[1])[:512] == b"i" * 512
    assert bytes_of(sr, A)[:512] == b"i" * 512


def test_a_clone_of_a_changed_disk_keeps_what_that_holds(sr):
    sr.create(A, 2 * MIB)
    sr.clone(A, B)
    put(sr, A, 0, b"k" * 512)
    sr.clone(A, C)
    assert bytes_of(sr, C)[:512] == b"k" * 512
    assert bytes_of(sr, B)[:512] == bytes(512)


def test_a_copy_stands_on_nothing_and_takes_no_room_for_zeros(opened):
    sr, other = opened(), opened("other")
    sr.create(A, 8 * MIB)
    put(sr, A, 2 * MIB, b"m" * 512)
    put(sr, A, 4 * MIB, bytes(MIB))
    sr.snapshot(A, B)
    put(sr, A, 6 * MIB, b"n" * 512)
    sr.copy(A, C)
    sr.copy(A, D, other)
    for repository, uuid in ((sr, C), (other, D)):
        assert bytes_of(repository, uuid) == bytes_of(sr, A)
        assert repository.get(uuid).parent is None
        with repository.reading(uuid) as chain:
            assert chain.leaf.blocks() == [1, 3]


def test_the_disks_of_a_chain_are_what_qemu_img_reads(sr, path, tmp_path):
    sr.create(A, 4 * MIB)
    put(sr, A, 3 * MIB, bytes(range(256)) * 2048)
    sr.snapshot(A, B)
    put(sr, A, 0, b"q" * 1024)
    sr.copy(A, C)
    raw = tmp_path / "raw"
    options = f"driver=vpc,force_size_calc=current_size,file.filename={path / C}.vhd"
    command = ["qemu-img", "convert", "--image-opts", options, "-O", "raw", raw]
    subprocess.run(command, check=True)
    assert raw.read_bytes() == bytes_of(sr, A)


def test_a_stream_of_any_pieces_is_a_disk_that_grows_to_hold_it(sr):
    sr.create(A, 2 * MIB)
    data = bytes(range(1, 251)) * 20_000
    pieces = [data[at : at + 99_991] for at in range(0, len(data), 99_991)]
    written = sr.import_raw(A, pieces)
    assert written == -(-len(data) // 512) * 512
    assert sr.get(A).size_bytes == 6 * MIB
    assert bytes_of(sr, A) == data.ljust(6 * MIB, b"\0")


def test_zeros_of_a_stream_take_no_room_on_a_new_disk_and_wipe_an_old_one(sr):
    sr.create(A, 8 * MIB)
    sr.import_raw(A, [bytes(8 * MIB)])
    with sr.reading(A) as chain:
        assert chain.leaf.blocks() == []
    put(sr, A, 0, b"o" * 512)
    sr.snapshot(A, B)
    sr.import_raw(A, [bytes(8 * MIB)])
    assert bytes_of(sr, A) == bytes(8 * MIB)
    assert bytes_of(sr, B)[:512] == b"o" * 512


def test_a_sender_who_hangs_up_is_told_of_and_the_disk_can_be_written_again(sr):
    def torn():
        yield b"p" * 512
        raise ConnectionResetError

    sr.create(A, 2 * MIB)
    with pytest.raises(ConnectionResetError):
        sr.import_raw(A, torn())
    put(sr, A, 0, b"r" * 512)
    assert bytes_of(sr, A)[:512] == b"r" * 512


def test_what_is_in_use_is_not_changed_by_others(sr):
    sr.create(A, 2 * MIB)
    with sr.writing(A):
        for act in (
            lambda: sr.snapshot(A, B),
            lambda: sr.clone(A, B),
            lambda: sr.copy(A, B),
            lambda: sr.resize(A, 4 * MIB),
            lambda: sr.delete(A),
            lambda: sr.activate(A, is_writable=False),
        ):
            with refused("VDI_IN_USE"):
                act()
    with sr.reading(A), sr.reading(A):
        sr.snapshot(A, B)
        with refused("VDI_IN_USE"):
            sr.delete(A)
        with refused("VDI_IN_USE"), sr.writing(A):
            pass
    sr.delete(A)


def test_an_active_disk_is_held_until_it_is_let_go(sr, path):
    sr.create(A, 2 * MIB)
    assert sr.activate(A, is_writable=True) == str(path / f"{A}.vhd")
    with refused("VDI_IN_USE"):
        sr.delete(A)
    sr.deactivate(A, is_writable=True)
    sr.delete(A)
    with refused("VDI_MISSING"):
        sr.activate(A, is_writable=True)
    with refused("VDI_MISSING"):
        sr.get(A)


def test_a_base_copy_is_nobodys_to_write_or_remove(sr):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    base = sr.get(A).parent
    for act in (
        lambda: sr.delete(base),
        lambda: sr.resize(base, 4 * MIB),
        lambda: sr.snapshot(base, C),
        lambda: sr.clone(base, C),
        lambda: sr.introduce(base),
        lambda: sr.activate(base, is_writable=True),
    ):
        with refused("VDI_NOT_MANAGED"):
            act()
    sr.delete(A)
    sr.delete(B)


def test_deleting_twice_is_no_error(sr, path):
    sr.create(A, 2 * MIB)
    sr.delete(A)
    sr.delete(A)
    assert vhds(path) == []


def test_a_chain_that_is_long_enough_is_refused_before_anything_is_done(opened, path):
    sr = opened(depth_max=4)
    sr.create(A, 2 * MIB)
    for number in range(3):
        put(sr, A, 512 * number, b"s" * 512)
        sr.snapshot(A, derive_uuid("s", str(number)))
    assert sr.get(A).depth == 4
    before = sorted(one.name for one in path.iterdir())
    with pytest.raises(BackendError) as told:
        sr.snapshot(A, B)
    assert told.value.code == "SR_BACKEND_FAILURE_109"
    assert "4 files" in told.value.params[1]
    assert "coalesce" in told.value.params[1]
    assert sorted(one.name for one in path.iterdir()) == before


def test_the_chain_limit_is_sms_when_nothing_else_is_said(sr):
    sr.create(A, 2 * MIB)
    for number in range(29):
        sr.snapshot(A, derive_uuid("t", str(number)))
    assert sr.get(A).depth == 30
    with refused("SR_BACKEND_FAILURE_109"):
        sr.snapshot(A, B)


def test_room_is_kept_back_and_what_is_asked_and_there_is_told(opened):
    free = [100 * MIB]
    sr = opened(reserve_bytes=90 * MIB, measure=lambda _: free[0])
    sr.create(A, 16 * MIB)
    put(sr, A, 0, b"t" * 512)
    free[0] = 90 * MIB + 1
    for act in (
        lambda: sr.create(B, 16 * MIB),
        lambda: sr.snapshot(A, B),
        lambda: sr.clone(A, B),
        lambda: sr.copy(A, B),
        lambda: sr.resize(A, 32 * MIB),
        lambda: sr.import_raw(A, [b"u" * MIB]),
    ):
        with pytest.raises(BackendError) as told:
            act()
        assert told.value.code == "SR_FULL"
        assert int(told.value.params[0]) > int(told.value.params[1]) == 1
    assert bytes_of(sr, A)[:512] == b"t" * 512
    sr.delete(A)


def test_a_copy_that_meets_the_reserve_leaves_nothing_behind(opened, path):
    room = iter([100 * MIB] * 4 + [0] * 9)
    sr = opened()
    sr.create(A, 8 * MIB)
    sr.import_raw(A, [b"v" * (8 * MIB)])
    sr.close()
    sr = opened(measure=lambda _: next(room))
    with refused("SR_FULL"):
        sr.copy(A, B)
    assert vhds(path) == [f"{A}.vhd"]
    assert not list(path.glob("*.new"))


def test_use_is_told_by_disk_by_chain_and_in_all(sr, path):
    sr.create(A, 8 * MIB)
    sr.import_raw(A, [b"w" * (4 * MIB)])
    sr.snapshot(A, B)
    vdi, base = sr.get(A), sr.get(sr.get(A).parent)
    assert base.used_bytes >= 4 * MIB > vdi.used_bytes
    assert vdi.chain_bytes == base.used_bytes + vdi.used_bytes
    use = sr.usage()
    on_disk = sum(one.stat().st_blocks * 512 for one in path.iterdir())
    assert use.physical_utilisation_bytes == on_disk
    assert use.virtual_allocation_bytes == 16 * MIB
    assert use.physical_size_bytes > use.physical_utilisation_bytes


def test_a_repository_is_one_process_until_it_is_closed(opened):
    first = opened()
    with refused("SR_BACKEND_FAILURE_16"):
        opened()
    first.close()
    opened()


def test_a_closed_repository_takes_no_calls(sr, path):
    sr.create(A, 2 * MIB)
    sr.close()
    sr.close()
    for act in (
        lambda: sr.create(B, 2 * MIB),
        lambda: sr.delete(A),
        lambda: sr.get(A),
        sr.scan,
        sr.usage,
        lambda: bytes_of(sr, A),
    ):
        with refused("SR_NOT_ATTACHED"):
            act()
    assert sr.collect().is_done
    assert vhds(path) == [f"{A}.vhd"]


def test_a_scan_adopts_what_is_new_and_tells_what_is_gone(sr, path, world):
    sr.create(A, 2 * MIB)
    sr.create(B, 2 * MIB)
    create_dynamic(Directory(path), f"{C}.vhd", size_bytes=4 * MIB, world=world)
    create_dynamic(Directory(path), "stray.vhd", size_bytes=4 * MIB, world=world)
    (path / f"{B}.vhd").unlink()
    found = sr.scan([A, B])
    assert set(found.vdis) == {A, C}
    assert found.new == (C,)
    assert found.gone == (B,)
    assert found.strangers == ("stray.vhd",)
    assert found.damaged == {}
    assert [vdi.size_bytes for vdi in sr.introduce(C)][:1] == [4 * MIB]
    put(sr, C, 0, b"x" * 512)


def test_a_scan_marks_what_is_damaged_with_all_that_stands_on_it(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    sr.create(C, 2 * MIB)
    sr.create(D, 2 * MIB)
    base = sr.get(A).parent
    (path / f"{base}.vhd").write_bytes(b"nothing")
    (path / f"{C}.vhd").unlink()
    (path / f"{C}.vhd").symlink_to("/etc/passwd")
    damaged = sr.scan().damaged
    assert set(damaged) == {A, B, C, base}
    assert base in damaged[base]
    assert "not here" in damaged[A]
    for uuid in (A, C):
        with refused("SR_BACKEND_FAILURE_46"):
            sr.introduce(uuid)
    assert bytes_of(sr, D) == bytes(2 * MIB)
    with refused("VDI_MISSING"):
        sr.introduce(derive_uuid("none"))


def test_a_damaged_file_does_not_keep_others_from_being_deleted(sr, path):
    sr.create(A, 2 * MIB)
    sr.create(B, 2 * MIB)
    (path / f"{A}.vhd").write_bytes(b"nothing")
    sr.delete(B)
    assert set(sr.scan().vdis) == {A}
    assert A in sr.collect().left
    sr.delete(A)
    assert sr.collect().deleted == [B]
    assert vhds(path) == []


def test_a_parent_that_cannot_be_read_is_not_deleted_under_its_children(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    base = sr.get(A).parent
    (path / f"{base}.vhd").write_bytes(b"nothing")
    with refused("SR_BACKEND_FAILURE_46"):
        sr.delete(base)
    assert (path / f"{base}.vhd").exists()


def test_a_visible_disk_with_children_goes_when_they_are_gone(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    base = sr.get(A).parent
    image = open_image(Directory(path), f"{base}.vhd", writable=True)
    set_hidden(image, False)
    image.close()
    sr.delete(base)
    assert sr.get(base).is_hidden
    sr.delete(A)
    sr.delete(B)
    assert sr.collect().deleted == [base]


def test_nothing_is_merged_into_a_disk_that_is_shown(sr, path):
    sr.create(A, 2 * MIB)
    sr.snapshot(A, B)
    base = sr.get(A).parent
    image = open_image(Directory(path), f"{base}.vhd", writable=True)
    set_hidden(image, False)
    image.close()
    put(sr, A, 0, b"y" * 512)
    sr.delete(B)
    done = sr.collect()
    assert done.is_done
    assert done.coalesced == []
    assert bytes_of(sr, base) == bytes(2 * MIB)
    assert bytes_of(sr, A)[:512] == b"y" * 512


def test_a_clone_of_a_disk_that_was_only_grown_is_as_large(sr):
    sr.create(A, 2 * MIB)
    sr.clone(A, B)
    sr.resize(B, 4 * MIB)
    sr.clone(B, C)
    assert sr.get(C).size_bytes == 4 * MIB
    assert bytes_of(sr, C) == bytes(4 * MIB)


def test_a_directory_that_is_not_there_is_no_repository(tmp_path, world):
    with pytest.raises(FileNotFoundError):
        FileRepository(tmp_path / "none", world=world)
