"""KVM is believed only after a guest ran through it, once for each boot of the machine."""

import shutil
from pathlib import Path

import pytest

from xenith.toolstack.backends.qemu import kvm

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture
def qemu():
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("needs qemu-system-x86")
    return Path(program)


async def test_the_probes_guest_comes_to_its_end_where_guests_run(qemu, tmp_path, monkeypatch):
    # Emulation runs guests everywhere, so this shows that the guest itself is sound.
    monkeypatch.setattr(kvm, "PROBE_TIMEOUT_S", 30)
    assert await kvm.runs_guest(qemu, tmp_path, "tcg")
    assert list(tmp_path.iterdir()) == []


async def test_a_qemu_that_ends_in_any_other_way_has_not_run_the_guest(tmp_path):
    assert not await kvm.runs_guest(Path("/bin/true"), tmp_path, "kvm")


async def test_the_answer_is_kept_for_this_boot_and_this_program(tmp_path, monkeypatch):
    asked = []

    async def runs_guest(program, directory, accelerator):
        asked.append(str(program))
        return True

    monkeypatch.setattr(kvm, "runs_guest", runs_guest)
    for program in ("/a", "/a", "/b"):
        assert await kvm.has_kvm(Path(program), tmp_path)
    assert asked == ["/a", "/b"]
    monkeypatch.setattr(kvm, "_boot_id", lambda: "another boot")
    assert await kvm.has_kvm(Path("/b"), tmp_path)
    (tmp_path / "kvm.json").write_text("garbage")
    assert await kvm.has_kvm(Path("/b"), tmp_path)
    assert asked == ["/a", "/b", "/b", "/b"]
