"""The tiny image is built from Debian packages alone and is a disk that a BIOS can boot."""

import struct

import pytest

from xenith.core.errors import Unavailable
from xenith.dev.tiny_image import build, build_tiny_image, find_or_build

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return build_tiny_image(tmp_path_factory.mktemp("tiny") / "tiny.raw")


def test_the_image_is_a_bootable_disk_of_a_few_dozen_megabytes(image):
    data = image.read_bytes()
    assert 16 << 20 < len(data) < 64 << 20
    assert data[510:512] == b"\x55\xaa"
    status, start, count = struct.unpack_from("<B7xII", data, 446)
    assert status == 0x80
    assert (start + count) * 512 == len(data)
    partition = data[start * 512 :]
    assert partition[510:512] == b"\x55\xaa"
    assert partition[54:59] == b"FAT16"


def test_building_leaves_only_the_image_behind(image):
    assert [path.name for path in image.parent.iterdir()] == ["tiny.raw"]


def test_an_image_that_was_built_before_is_taken_again(tmp_path, monkeypatch):
    first = find_or_build(tmp_path)
    monkeypatch.setattr(build, "KERNEL", "no-such-kernel")
    assert find_or_build(tmp_path) == first


def test_a_kernel_that_apt_does_not_know_is_told_with_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "KERNEL", "no-such-kernel-at-all")
    with pytest.raises(Unavailable, match="apt-get update"):
        build_tiny_image(tmp_path / "tiny.raw")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_apt_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="Debian"):
        build_tiny_image(tmp_path / "tiny.raw")
