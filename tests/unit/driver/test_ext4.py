"""Empty ext4 file systems: sound, known by label and UUID, and small on the wire."""

import shutil
import subprocess

import pytest

from xenith.core.errors import Unavailable
from xenith.core.world import World
from xenith.dev.bench.vhd_work import vhd_to_raw
from xenith.driver import ext4

ID = "22222222-0000-4000-8000-000000000001"
GIB = 2**30

pytestmark = pytest.mark.skipif(ext4.find_tool() is None, reason="mkfs.ext4 is not installed")


@pytest.mark.slow
async def test_a_file_system_is_sound_and_known_by_label_and_uuid(tmp_path):
    raw = tmp_path / "disk.raw"
    async with ext4.made_as_vhd(
        ext4.find_tool(), GIB, label="ephemeral0", uuid=ID, world=World()
    ) as vhd:
        kept = tmp_path / "disk.vhd"
        shutil.copy(vhd, kept)
    assert not vhd.exists()
    vhd_to_raw(kept, raw)
    assert raw.stat().st_size == GIB
    with raw.open("rb") as file:
        file.seek(1024)
        block = file.read(1024)
    # Source: ext4, struct ext4_super_block: magic, UUID, label.
    assert block[56:58] == b"\x53\xef"
    assert block[104:120].hex() == ID.replace("-", "")
    assert block[120:136].rstrip(b"\0") == b"ephemeral0"
    check(raw)


def check(raw):
    checker = shutil.which("e2fsck", path="/usr/sbin:/sbin:/usr/bin")
    subprocess.run([checker, "-fn", raw], check=True, timeout=60, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "mib_max"), [(1, 16), (2000, 64)])
async def test_a_file_system_is_sent_as_a_few_mib(gib, mib_max):
    async with ext4.made_as_vhd(
        ext4.find_tool(), gib * GIB, label="ephemeral0", uuid=ID, world=World()
    ) as vhd:
        assert vhd.stat().st_size < mib_max * 2**20


async def test_a_tool_that_fails_is_told_with_its_own_words():
    making = ext4.made_as_vhd("/bin/false", GIB, label="x", uuid=ID, world=World())
    with pytest.raises(Unavailable, match="could not make a file system"):
        async with making:
            pass
