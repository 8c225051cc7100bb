"""The calls of XenAPI that its clients use, against those that the server has.

``reference/calls.txt`` is the list: Nova's former driver, the official SDK, Xen Orchestra, and what
belongs beside them. ``reference/missing.txt`` names those not built yet; it can only shrink.
"""

from pathlib import Path

from xenith.toolstack.classes import table

_HERE = Path(__file__).parent / "reference"


def lines(name):
    return (_HERE / name).read_text().split()


def test_what_is_missing_is_what_is_said_to_be():
    calls, missing = set(lines("calls.txt")), set(lines("missing.txt"))
    assert missing <= calls
    unsaid = sorted(calls - table().keys() - missing)
    assert not unsaid, f"gone from the server: {unsaid}"
    built = sorted(missing & table().keys())
    assert not built, f"built by now, to be taken out of missing.txt: {built}"


def test_the_lists_are_in_order_and_without_repetition():
    for name in ("calls.txt", "missing.txt"):
        assert lines(name) == sorted(set(lines(name)))
