"""The bytes of images: up and down, whole or not at all, and never what they do not claim to be."""

from __future__ import annotations

import asyncio
import hashlib
import struct

import pytest

from xenith.core import limits
from xenith.core.errors import Unavailable
from xenith.image import records, seen


def qcow2(*, size=1 << 20, backing=0, incompatible=0, version=3, cluster_bits=16):
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, backing, cluster_bits, size)
    return (head + bytes(40) + struct.pack(">Q", incompatible) + bytes(24)).ljust(1024, b"\0")


def vhd(*, kind=2, size=1 << 20, checksum=None):
    footer = bytearray(512)
    footer[:8] = b"conectix"
    footer[48:56] = size.to_bytes(8, "big")
    footer[60:64] = kind.to_bytes(4, "big")
    right = ~sum(footer) & 0xFFFFFFFF
    footer[64:68] = (right if checksum is None else checksum).to_bytes(4, "big")
    return bytes(2048) + bytes(footer)


def vmdk(kind="monolithicSparse", *, at=1):
    head = b"KDMV" + bytes(24) + struct.pack("<QQ", at, 2)
    return head.ljust(512, b"\0") + f'# Disk DescriptorFile\ncreateType="{kind}"\n'.encode()


async def test_what_is_uploaded_is_described_and_downloaded_again(cloud):
    data = bytes(range(256)) * 5000
    image = await cloud.make_active(data)
    assert image["status"] == "active"
    assert image["size"] == image["virtual_size"] == len(data)
    assert image["checksum"] == hashlib.md5(data).hexdigest()
    assert (image["os_hash_algo"], image["os_hash_value"]) == (
        "sha512",
        hashlib.sha512(data).hexdigest(),
    )
    answer = await cloud.ask("GET", image["file"])
    assert answer.content == data
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["content-md5"] == image["checksum"]
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_an_image_without_bytes_has_none_to_give(cloud):
    image = await cloud.make()
    answer = await cloud.ask("GET", image["file"])
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("asked", "expected", "where"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=8-", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=5-500", b"56789", "bytes 5-9/10"),
        ("bytes=-50", b"0123456789", "bytes 0-9/10"),
    ],
)
async def test_a_range_is_given_alone(cloud, asked, expected, where):
    image = await cloud.make_active(b"0123456789")
    answer = await cloud.ask("GET", image["file"], headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == where
    assert answer.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize(
    "asked", ["bytes=10-", "bytes=5-2", "bytes=-", "bytes=-0", "lines=1-2", "bytes=0-1,3-4", "x"]
)
async def test_a_range_that_is_not_there_is_refused(cloud, asked):
    image = await cloud.make_active(b"0123456789")
    answer = await cloud.ask("GET", image["file"], headers={"Range": asked})
    assert answer.status_code == 416


async def test_bytes_come_once(cloud):
    image = await cloud.make_active()
    assert (await cloud.upload(image["id"], b"other")).status_code == 409
    assert (await cloud.ask("GET", image["file"])).content == b"bytes"


@pytest.mark.parametrize("missing", ["disk_format", "container_format"])
async def test_bytes_come_after_the_formats(cloud, missing):
    image = await cloud.make(**{missing: None})
    assert (await cloud.upload(image["id"])).status_code == 400
    assert (await cloud.show(image["id"]))["status"] == "queued"


async def test_bytes_are_of_the_type_of_bytes(cloud):
    image = await cloud.make()
    answer = await cloud.upload(image["id"], **{"Content-Type": "application/json"})
    assert answer.status_code == 415


async def test_others_do_not_upload(cloud):
    image = await cloud.make()
    assert (await cloud.upload(image["id"], by="member-2")).status_code == 404
    assert (await cloud.upload(image["id"], by="reader")).status_code == 403


async def queued_and_nothing_left(cloud, image):
    assert (await cloud.show(image["id"]))["status"] == "queued"
    assert await cloud.store.list() == []
    assert (await cloud.upload(image["id"])).status_code == 204


@pytest.mark.parametrize("length", ["9", "3"])
async def test_an_upload_of_another_length_than_announced_leaves_nothing(cloud, length):
    image = await cloud.make()
    answer = await cloud.upload(image["id"], b"bytes", **{"Content-Length": length})
    assert answer.status_code == 400
    await queued_and_nothing_left(cloud, image)


async def test_an_upload_that_is_too_large_is_refused_before_and_while_it_comes(cloud, monkeypatch):
    image = await cloud.make()
    huge = str(limits.IMAGE_BYTES_MAX + 1)
    answer = await cloud.upload(image["id"], b"bytes", **{"Content-Length": huge})
    assert answer.status_code == 413
    monkeypatch.setattr(seen, "IMAGE_BYTES_MAX", 4)

    async def unannounced():
        yield b"abc"
        yield b"de"

    assert (await cloud.upload(image["id"], unannounced())).status_code == 413
    monkeypatch.undo()
    await queued_and_nothing_left(cloud, image)


async def test_an_upload_whose_client_hangs_up_leaves_nothing(cloud):
    image = await cloud.make()
    messages = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": f"/image/v2/images/{image['id']}/file",
        "query_string": b"",
        "headers": [(b"x-auth-token", b"member"), (b"content-type", b"application/octet-stream")],
    }
    await cloud.site(scope, receive, send)
    assert sent == []
    await queued_and_nothing_left(cloud, image)


async def test_a_store_that_fails_leaves_the_image_as_it_was(cloud, monkeypatch):
    image = await cloud.make()

    async def fail(_name, chunks):
        raise Unavailable("the store is away")

    monkeypatch.setattr(cloud.store, "write", fail)
    answer = await cloud.upload(image["id"])
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    monkeypatch.undo()
    await queued_and_nothing_left(cloud, image)


async def test_an_image_deleted_while_its_bytes_come_stays_deleted(cloud):
    image = await cloud.make()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        yield b"a"
        begun.set()
        await go_on.wait()
        yield b"b"

    uploading = asyncio.create_task(cloud.upload(image["id"], slow()))
    await begun.wait()
    assert (await cloud.show(image["id"]))["status"] == "saving"
    second = await cloud.upload(image["id"], b"other")
    assert second.status_code == 409
    assert (await cloud.ask("DELETE", f"/v2/images/{image['id']}")).status_code == 204
    go_on.set()
    assert (await uploading).status_code == 404
    assert await cloud.store.list() == []


# -- what the bytes claim to be

LINUX = bytes(4096)
GOOD = {
    "raw": LINUX,
    "qcow2": qcow2(),
    "vhd": vhd(),
    "vmdk": vmdk(),
    "vhdx": b"vhdxfile".ljust(1024, b"\0"),
    "vdi": bytes(64) + b"\x7f\x10\xda\xbe" + bytes(500),
    "iso": bytes(32769) + b"CD001" + bytes(2000),
    "aki": LINUX,
}


@pytest.mark.parametrize("name", GOOD)
async def test_what_is_what_it_claims_is_taken(cloud, name):
    image = await cloud.make_active(GOOD[name], disk_format=name)
    known = {"qcow2": 1 << 20, "vhd": 1 << 20}
    if name in ("raw", "iso", "qcow2", "vhd"):
        assert image["virtual_size"] == known.get(name, len(GOOD[name]))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("qcow2", LINUX),
        ("qcow2", vhd()),
        ("qcow2", b""),
        ("qcow2", qcow2()[:50]),
        ("qcow2", qcow2(backing=512)),
        ("qcow2", qcow2(incompatible=4)),
        ("qcow2", qcow2(version=1)),
        ("qcow2", qcow2(size=0)),
        ("qcow2", qcow2(size=2**63)),
        ("qcow2", qcow2(cluster_bits=63)),
        ("vhd", LINUX),
        ("vhd", vhd(kind=4)),
        ("vhd", vhd(kind=9)),
        ("vhd", vhd(checksum=1)),
        ("vhd", vhd(size=0)),
        ("vhd", vhd(size=2**62)),
        ("vhd", b"conectix" + bytes(1000)),
        ("vhd", b"conectix"),
        ("vhdx", LINUX),
        ("vdi", LINUX),
        ("vmdk", LINUX),
        ("vmdk", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
        ("vmdk", vmdk("monolithicFlat")),
        ("vmdk", vmdk("monolithicSparse", at=2**60)),
        ("vmdk", vmdk('streamOptimized"\ncreateType="vmfs')),
        ("vmdk", b"COWD" + bytes(600)),
        ("iso", qcow2()),
        ("raw", qcow2()),
        ("raw", vhd()),
        ("ami", qcow2(backing=512)),
    ],
)
async def test_what_is_not_or_leans_on_another_file_is_refused(cloud, name, data):
    image = await cloud.make(disk_format=name)
    answer = await cloud.upload(image["id"], data)
    assert answer.status_code == 400, answer.text
    assert (await cloud.show(image["id"]))["status"] == "queued"
    assert await cloud.store.list() == []


async def test_a_header_that_comes_byte_by_byte_is_seen_all_the_same(cloud):
    image = await cloud.make(disk_format="qcow2")

    async def drops():
        for byte in qcow2(backing=512):
            yield bytes([byte])

    assert (await cloud.upload(image["id"], drops())).status_code == 400


# -- out of use and back


async def test_a_deactivated_image_gives_its_bytes_to_admins_only(cloud):
    image = await cloud.make_active()
    path = f"/v2/images/{image['id']}"
    assert (await cloud.ask("POST", path + "/actions/deactivate")).status_code == 204
    assert (await cloud.show(image["id"]))["status"] == "deactivated"
    assert (await cloud.ask("GET", path + "/file")).status_code == 403
    assert (await cloud.ask("GET", path + "/file", by="admin")).content == b"bytes"
    assert (await cloud.ask("POST", path + "/actions/deactivate")).status_code == 204
    assert (await cloud.ask("POST", path + "/actions/reactivate")).status_code == 204
    assert (await cloud.ask("GET", path + "/file")).content == b"bytes"
    assert (await cloud.ask("POST", path + "/actions/reactivate")).status_code == 204


@pytest.mark.parametrize("verb", ["deactivate", "reactivate"])
async def test_an_image_without_bytes_is_neither_put_out_of_use_nor_back(cloud, verb):
    image = await cloud.make()
    answer = await cloud.ask("POST", f"/v2/images/{image['id']}/actions/{verb}")
    assert answer.status_code == 403


# -- import

DIRECT = {"method": {"name": "glance-direct"}}


async def stage(cloud, image, data):
    headers = {"Content-Type": "application/octet-stream"}
    return await cloud.ask("PUT", image["file"][:-4] + "stage", content=data, headers=headers)


async def test_what_is_staged_is_imported(cloud):
    image = await cloud.make(disk_format="qcow2")
    assert (await stage(cloud, image, qcow2())).status_code == 204
    assert (await cloud.show(image["id"]))["status"] == "uploading"
    assert (await stage(cloud, image, qcow2())).status_code == 409
    answer = await cloud.ask("POST", f"/v2/images/{image['id']}/import", json=DIRECT)
    assert answer.status_code == 202
    assert (await cloud.show(image["id"]))["status"] == "active"
    assert (await cloud.ask("GET", image["file"])).content == qcow2()
    assert await cloud.store.list() == [image["id"]]


async def test_what_cannot_be_imported_leaves_nothing(cloud):
    image = await cloud.make(disk_format="qcow2")
    await stage(cloud, image, LINUX)
    answer = await cloud.ask("POST", f"/v2/images/{image['id']}/import", json=DIRECT)
    assert answer.status_code == 400
    assert (await cloud.show(image["id"]))["status"] == "queued"
    assert await cloud.store.list() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (DIRECT, 409),
        ({"method": {"name": "web-download", "uri": "http://x"}}, 400),
        ({"method": {"name": "magic"}}, 400),
        ({}, 400),
    ],
)
async def test_an_import_of_nothing_is_refused(cloud, body, code):
    image = await cloud.make()
    answer = await cloud.ask("POST", f"/v2/images/{image['id']}/import", json=body)
    assert answer.status_code == code


# -- after a crash


async def test_an_upload_that_died_with_its_process_is_queued_again(cloud):
    dead, staging, staged, kept = [await cloud.make() for _ in range(4)]
    await cloud.upload(kept["id"])
    await stage(cloud, staged, b"staged")

    async def stream():
        yield b"x"

    def die(tx):
        tx.update(records.images, {"id": dead["id"]}, status="saving")
        tx.update(records.images, {"id": staging["id"]}, status="uploading")

    await cloud.db.run(die)
    lost = cloud.world.ids.uuid()
    for name in (dead["id"], lost, lost + ".staged", "of-another"):
        await cloud.store.write(name, stream())
    await cloud.images.recover()
    statuses = [(await cloud.show(one["id"]))["status"] for one in (dead, staging, staged, kept)]
    assert statuses == ["queued", "queued", "uploading", "active"]
    assert await cloud.store.list() == sorted([kept["id"], staged["id"] + ".staged", "of-another"])
