"""Each service words its errors as its clients expect. Source: errors.md, section 1."""

from __future__ import annotations

import msgspec
import pytest

from xenith.core import errors
from xenith.http import faults


def body(style: str, fault: faults.Fault) -> object:
    return msgspec.json.decode(faults.render(fault, style)[0])


def test_compute_names_the_fault_by_its_code() -> None:
    fault = faults.Fault(409, "it is taken")
    assert body("compute", fault) == {"conflictingRequest": {"code": 409, "message": "it is taken"}}
    assert "computeFault" in str(body("compute", faults.Fault(406, "no")))


def test_network_names_the_kind_that_clients_key_on() -> None:
    fault = faults.Fault(409, "taken", kind="NetworkInUse")
    assert body("network", fault) == {
        "NeutronError": {"type": "NetworkInUse", "message": "taken", "detail": ""}
    }


def test_image_answers_a_page_or_json_and_escapes_what_a_client_sent() -> None:
    page, media = faults.render(faults.Fault(404, "<script>", accepts_html=True), "image")
    assert media.startswith("text/html")
    assert b"<script>" not in page
    assert body("image", faults.Fault(404, "gone")) == {
        "message": "gone<br /><br />\n\n\n",
        "code": "404 Not Found",
        "title": "Not Found",
    }


def test_identity_gives_code_title_and_message() -> None:
    assert body("identity", faults.Fault(403, "no")) == {
        "error": {"code": 403, "title": "Forbidden", "message": "no"}
    }


@pytest.mark.parametrize("style", ["compute", "network", "image", "identity", "placement"])
def test_a_refused_token_is_worded_alike_everywhere(style: str) -> None:
    assert body(style, faults.Fault(401, "who are you")) == {
        "error": {"code": 401, "title": "Unauthorized", "message": "who are you"}
    }


@pytest.mark.parametrize(
    ("style", "code"), [("compute", 403), ("network", 409), ("volume", 413), ("image", 413)]
)
def test_a_used_up_quota_has_each_services_code(style: str, code: int) -> None:
    assert faults.code_of(errors.Exhausted("no more"), style) == code


def test_every_class_of_error_has_a_code() -> None:
    classes = errors.XenithError.__subclasses__()
    assert classes
    assert all(item in faults.CODES for item in classes)
