"""A fault tells what failed, and never whose session it was."""

import pytest

from xenith.xapi import XapiFault


def test_a_fault_carries_its_parameters_as_text():
    fault = XapiFault("HOST_NOT_ENOUGH_FREE_MEMORY", 10, "5")
    assert fault.description == ["HOST_NOT_ENOUGH_FREE_MEMORY", "10", "5"]
    assert str(fault) == "HOST_NOT_ENOUGH_FREE_MEMORY(10, 5)"


@pytest.mark.parametrize(
    "fault",
    [
        XapiFault("SESSION_INVALID", "OpaqueRef:secret"),
        XapiFault("HANDLE_INVALID", "session", "OpaqueRef:secret"),
    ],
)
def test_a_session_reference_shows_neither_in_text_nor_in_repr(fault):
    assert "secret" not in str(fault)
    assert "secret" not in repr(fault)
    assert fault.params[-1] == "OpaqueRef:secret"
