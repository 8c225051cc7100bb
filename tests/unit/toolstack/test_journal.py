"""The file of a fleet: what is read is what was written, whatever a disk does meanwhile."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.toolstack.journal import Journal

VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=10)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["h1", "h2"]),
        st.sampled_from(["VM", "VDI"]),
        st.text(max_size=6),
        st.none() | st.dictionaries(st.text(max_size=6), VALUES, max_size=3),
    ),
    max_size=8,
)


def entries(path):
    return [(e.host, e.class_name, e.ref, e.record) for e in Journal(path).read()]


@given(changes=CHANGES)
async def test_what_was_written_is_read_in_order(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    journal.begin([])
    for change in changes:
        journal.write(*change)
    journal.flush()
    assert entries(path) == changes
    journal.close()


async def test_what_changes_after_it_was_told_is_kept_as_it_was(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.begin([])
    record = {"power_state": "Halted"}
    journal.write("h", "VM", "ref", record)
    record["power_state"] = "Running"
    journal.close()
    assert entries(tmp_path / "journal") == [("h", "VM", "ref", {"power_state": "Halted"})]


@pytest.mark.parametrize("written_bytes", [None, 0, 5])
async def test_a_full_disk_leaves_no_half_record_and_what_waits_is_written_later(
    tmp_path, written_bytes
):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.begin([])
    journal.write("h", "VM", "first", {})
    journal.flush()
    real = journal._file

    class Full:
        def write(self, data):
            if written_bytes is None:
                raise OSError(errno.ENOSPC, "no space")
            return real.write(data[:written_bytes])

        def truncate(self, size):
            return real.truncate(size)

    journal._file = Full()
    journal.write("h", "VM", "second", {"a": 1})
    with pytest.raises(OSError, match=r"space|part"):
        journal.flush()
    assert [entry[2] for entry in entries(path)] == ["first"]
    journal._file = real
    journal.write("h", "VM", "third", None)
    journal.close()
    assert [entry[2] for entry in entries(path)] == ["first", "second", "third"]
