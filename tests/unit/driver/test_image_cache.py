"""An image comes to a host once, whole or not at all."""

import asyncio
import shutil
import struct
import subprocess

import pytest

from xenith.core.errors import Exhausted, Invalid, NotFound, Unavailable
from xenith.driver import image_cache, qcow2
from xenith.driver.image_heads import disk_size
from xenith.xapi import XapiFault

MIB = 1024 * 1024


def qcow2_header(size, *, backing=0, features=0, version=3):
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    return header.ljust(72, b"\x00") + struct.pack(">Q", features) + bytes(432)


async def test_many_builds_that_wait_for_an_image_bring_it_once(bench, driver):
    gate = asyncio.Event()
    bench.images["i"] = [b"a" * MIB, gate, b"b" * MIB]
    waiting = [
        asyncio.create_task(driver.ensure_image("i", disk_format="raw", size_bytes=2 * MIB))
        for _ in range(5)
    ]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*waiting)
    assert bench.opened == ["i"]
    assert bench.names() == ["xenith-image-i"]


async def test_one_who_leaves_does_not_take_the_image_from_the_others(bench, driver):
    gate = asyncio.Event()
    bench.images["i"] = [b"a" * MIB, gate]
    first = asyncio.create_task(driver.ensure_image("i", disk_format="raw", size_bytes=MIB))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(driver.ensure_image("i", disk_format="raw", size_bytes=MIB))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    await second
    assert bench.opened == ["i"]


async def test_an_import_that_breaks_is_removed_and_done_again(bench, driver):
    bench.images["i"] = [b"a" * MIB, NotFound("the store has lost it")]
    with pytest.raises(NotFound, match="lost it"):
        await driver.ensure_image("i", disk_format="raw", size_bytes=2 * MIB)
    assert bench.names() == []
    bench.images["i"] = [b"a" * 2 * MIB]
    await driver.ensure_image("i", disk_format="raw", size_bytes=2 * MIB)
    assert bench.names() == ["xenith-image-i"]


async def test_a_half_import_of_a_dead_process_is_removed_at_the_next_start(bench, driver):
    operator = await bench.operator()
    (sr,) = await operator.call("SR.get_all")
    await operator.call(
        "VDI.create",
        {
            "name_label": "xenith-image-i",
            "SR": sr,
            "virtual_size": MIB,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {"xenith-image": "i"},
        },
    )
    await driver.stop()
    second = await bench.connect()
    assert bench.names() == []
    bench.images["i"] = [b"a" * MIB]
    await second.ensure_image("i", disk_format="raw", size_bytes=MIB)
    assert bench.names() == ["xenith-image-i"]


async def test_an_image_that_an_operator_removed_is_brought_again(bench, driver, build, make):
    await build(driver, make())
    (cached,) = [
        ref
        for ref, vdi in bench.host.objects.all("VDI").items()
        if vdi["name_label"].startswith("xenith-image-")
    ]
    await (await bench.operator()).call("VDI.destroy", cached)
    assert await build(driver, make("22222222-0000-4000-8000-000000000002")) == "running"
    assert len(bench.opened) == 2


async def test_a_vhd_is_as_large_as_its_footer_says(bench, driver, make, vhd_footer):
    footer = vhd_footer(40 * MIB)
    bench.images["v"] = [footer[:100], footer[100:], b"\x00" * 1024, footer]
    spec = make(image_id="v", image_format="vhd", image_size_bytes=2048, root_gib=0)
    await driver.create_root_disk(spec)
    assert {vdi["virtual_size"] for vdi in bench.records("VDI")} == {40 * MIB}


OTHER = "11111111-0000-4000-8000-000000000002"
DAY_S = 86400.0


@pytest.fixture
def _builds_clone_at_once(monkeypatch):
    """Have an image be held for no time after a build has asked for it."""
    monkeypatch.setattr(image_cache, "ASKED_HOLDS_S", 0.0)


async def two_images(bench, driver, build, make):
    """Have one image that a server was cloned from, and one that nobody uses."""
    await build(driver, make())
    bench.images[OTHER] = [b"b" * MIB]
    await driver.ensure_image(OTHER, disk_format="raw", size_bytes=MIB)


def cached(bench):
    return [name for name in bench.names() if name.startswith("xenith-image-")]


@pytest.mark.usefixtures("_builds_clone_at_once")
async def test_an_idle_image_leaves_once_no_disk_stands_on_it(bench, driver, build, make):
    await two_images(bench, driver, build, make)
    both = cached(bench)
    assert await driver.trim_images(idle_max_s=DAY_S, free_share=0.1) == 0
    assert cached(bench) == both
    await asyncio.sleep(0.05)
    assert await driver.trim_images(idle_max_s=20.0, free_share=0.1) == 1
    assert cached(bench) == [name for name in both if OTHER not in name]
    await driver.destroy_instance(make().instance_id)
    assert await driver.trim_images(idle_max_s=20.0, free_share=0.1) == 1
    assert cached(bench) == []
    counts = driver.image_counts
    assert (counts.hits, counts.misses, counts.removed) == (0, 2, 2)
    assert counts.freed_bytes == 2 * MIB
    # Nothing is lost by it.
    assert await build(driver, make()) == "running"


@pytest.mark.usefixtures("_builds_clone_at_once")
async def test_where_room_is_short_unused_images_leave_at_once(bench, driver, build, make):
    await two_images(bench, driver, build, make)
    assert await driver.trim_images(idle_max_s=DAY_S, free_share=1.0) == 1
    assert [name for name in cached(bench) if OTHER in name] == []


@pytest.mark.usefixtures("_builds_clone_at_once")
async def test_an_image_that_finds_no_room_takes_that_of_one_that_nobody_uses(
    bench, driver, build, make
):
    await two_images(bench, driver, build, make)
    bench.images["third"] = [b"c" * MIB]
    with bench.counted(driver) as calls:
        inner = driver._line.import_vdi

        async def full_once(*args, **options):
            if calls.count("VDI.destroy") < 2:  # the half import, and the image that left
                raise XapiFault("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
            await inner(*args, **options)

        driver._line.import_vdi = full_once
        await driver.ensure_image("third", disk_format="raw", size_bytes=MIB)
    assert [name.removeprefix("xenith-image-") for name in cached(bench)] == [
        make().image_id,
        "third",
    ]


async def test_a_host_that_is_full_of_what_is_used_says_so(bench, driver, build, make):
    await build(driver, make())
    bench.images["third"] = [b"c" * MIB]

    async def full(*_args, **_options):
        raise XapiFault("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")

    driver._line.import_vdi = full
    with pytest.raises(Exhausted, match="insufficient space"):
        await driver.ensure_image("third", disk_format="raw", size_bytes=MIB)
    assert len(cached(bench)) == 1


@pytest.mark.usefixtures("_builds_clone_at_once")
async def test_an_image_that_a_build_asks_for_while_it_leaves_is_brought_again(
    bench, driver, build, make
):
    await two_images(bench, driver, build, make)
    spec = make("22222222-0000-4000-8000-000000000002", image_id=OTHER)
    await asyncio.gather(driver.trim_images(idle_max_s=0.0, free_share=0.0), build(driver, spec))
    assert [name for name in bench.names() if name == f"xenith-root-{spec.instance_id}"]


def test_sizes_are_read_from_the_head_of_each_format(vhd_footer):
    assert disk_size(b"", "raw", 5 * MIB) == 5 * MIB
    assert disk_size(vhd_footer(7 * MIB), "vhd", 2048) == 7 * MIB
    assert disk_size(b"\x00" * 512, "vhd", 3 * MIB + 512) == 3 * MIB
    assert disk_size(qcow2_header(9 * MIB), "qcow2", 2048) == 9 * MIB


@pytest.mark.parametrize(
    ("head", "disk_format"),
    [
        (b"conectix", "vhd"),
        (qcow2_header(MIB, backing=512), "qcow2"),
        (qcow2_header(MIB, features=4), "qcow2"),
        (qcow2_header(MIB, version=9), "qcow2"),
        (qcow2_header(0), "qcow2"),
        (qcow2_header(2**62), "qcow2"),
        (b"QFI\xfb", "qcow2"),
        (b"not an image at all" * 40, "qcow2"),
        (b"x" * 512, "iso"),
    ],
)
def test_an_image_that_leans_on_another_file_or_is_broken_is_refused(head, disk_format):
    with pytest.raises(Invalid):
        disk_size(head, disk_format, 4096)


def test_a_differencing_vhd_is_refused(vhd_footer):
    with pytest.raises(Invalid, match="differencing"):
        disk_size(vhd_footer(MIB, kind=4), "vhd", 4096)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
async def test_a_qcow2_becomes_raw_on_its_way(bench, driver, make, tmp_path):
    raw, image = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(b"hello" + bytes(3 * MIB))
    await asyncio.to_thread(
        subprocess.run,
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)],
        check=True,
        timeout=20,
    )
    bench.images["q"] = [image.read_bytes()]
    spec = make(image_id="q", image_format="qcow2", image_size_bytes=image.stat().st_size)
    await driver.create_root_disk(spec)
    async with qcow2.converted_to_raw(bench.open_image("q")) as path:
        assert path.read_bytes()[:8] == b"hello\x00\x00\x00"
        assert path.stat().st_size >= 3 * MIB
    assert not path.exists()


async def test_without_a_converter_the_reason_is_said(bench, driver, monkeypatch):
    monkeypatch.setattr(qcow2.shutil, "which", lambda _name: None)
    bench.images["q"] = [qcow2_header(MIB)]
    with pytest.raises(Unavailable, match="qemu-utils"):
        await driver.ensure_image("q", disk_format="qcow2", size_bytes=512)


@pytest.mark.slow
async def test_a_qcow2_with_a_backing_file_never_reaches_the_converter(bench, driver, monkeypatch):
    monkeypatch.setattr(qcow2.shutil, "which", lambda name: "/nonexistent/" + name)
    bench.images["q"] = [qcow2_header(MIB, backing=512)]
    with pytest.raises(Invalid, match="backing file"):
        await driver.ensure_image("q", disk_format="qcow2", size_bytes=512)


@pytest.mark.slow
async def test_a_tarball_becomes_one_vhd_on_its_way(bench, driver, make, tarball_of):
    packed = tarball_of([{0: b"base" * 128}, {3 * MIB: b"leaf" * 128}], 5 * MIB, gzip_level=1)
    bench.images["t"] = [packed[:700], packed[700:]]
    spec = make(image_id="t", image_format="ovf", image_size_bytes=len(packed), root_gib=0)
    await driver.create_root_disk(spec)
    assert {vdi["virtual_size"] for vdi in bench.records("VDI")} == {6 * MIB}, "in whole blocks"
    await driver.create_root_disk(make(OTHER, image_id="t", image_format="ovf", root_gib=0))
    assert bench.opened == ["t"], "it is converted once"


@pytest.mark.slow
async def test_a_tarball_that_is_none_leaves_nothing(bench, driver):
    bench.images["t"] = [b"no tarball" * 100]
    with pytest.raises(Invalid, match="no sound tarball"):
        await driver.ensure_image("t", disk_format="ovf", size_bytes=1000)
    assert bench.records("VDI") == []
