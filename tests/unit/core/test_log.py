"""Log lines are structured, and no secret reaches one."""

import json

import pytest
import structlog

from xenith.core import log


@pytest.fixture(autouse=True)
def _restored():
    yield
    structlog.reset_defaults()
    log.configure_quietly()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines(capsys):
    """What was logged so far, as parsed lines."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_line_with_its_room_level_and_time(lines):
    log.configure(as_json=True)
    log.logger("compute").info("server built", server_id="x")
    (line,) = lines()
    assert line["event"] == "server built"
    assert line["room"] == "compute"
    assert line["server_id"] == "x"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_the_request_id_of_the_work_is_on_every_line_it_causes(lines):
    log.configure(as_json=True)
    with structlog.contextvars.bound_contextvars(request_id="req-1"):
        log.logger("compute").info("inside")
    log.logger("compute").info("outside")
    inside, outside = lines()
    assert inside["request_id"] == "req-1"
    assert "request_id" not in outside


@pytest.mark.parametrize("name", sorted(log.SECRET_NAMES))
def test_a_secret_is_blotted_out(name, capsys):
    log.configure(as_json=True)
    log.logger("identity").info("login", **{name: "hunter2"})
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert json.loads(written)[name] == "***"


def test_a_secret_inside_a_body_is_blotted_out_too(capsys):
    log.configure(as_json=True)
    body = {"auth": {"users": [{"name": "demo", "password": "hunter2"}]}}
    log.logger("identity").info("refused", body=body)
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert "demo" in written
    assert body["auth"]["users"][0]["password"] == "hunter2"


@pytest.mark.parametrize("name", ["X-Auth-Token", "admin_password", "user_data", "Authorization"])
def test_the_names_that_clients_send_secrets_under_are_blotted_out(name, capsys):
    log.configure(as_json=True)
    log.logger("http").info("request", headers={name: "hunter2"})
    assert "hunter2" not in capsys.readouterr().err


def test_below_the_level_nothing_is_written(capsys):
    log.configure(level="warning", as_json=True)
    log.logger("core").info("quiet")
    log.logger("core").warning("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_a_line_for_people_says_the_same(capsys):
    log.configure()
    log.logger("core").info("server built", server_id="x")
    written = capsys.readouterr().err
    assert "server built" in written
    assert "server_id=x" in written


def test_a_failures_trace_is_part_of_its_line(lines):
    log.configure(as_json=True)
    try:
        raise ValueError("broken")
    except ValueError:
        log.logger("core").exception("failed")
    (line,) = lines()
    assert "ValueError: broken" in line["exception"]
