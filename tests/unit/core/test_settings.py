"""Settings: the file, then the environment, then flags."""

import pytest

from xenith.core.errors import Invalid
from xenith.core.settings import Settings, load


@pytest.fixture
def file(tmp_path):
    """A settings file that says something about three things."""
    path = tmp_path / "xenith.toml"
    path.write_text('region = "file"\nhosts = 5\nlog_json = true\n')
    return path


def test_nothing_said_gives_the_defaults():
    assert load(environ={}) == Settings()


def test_the_file_beats_the_default(file):
    settings = load(file, environ={})
    assert (settings.region, settings.hosts, settings.log_json) == ("file", 5, True)
    assert settings.listen == Settings().listen


def test_the_environment_beats_the_file_and_a_flag_beats_both(file):
    environ = {"XENITH_REGION": "environ", "XENITH_HOSTS": "7"}
    assert load(file, environ=environ).region == "environ"
    settings = load(file, environ=environ, flags={"region": "flag"})
    assert (settings.region, settings.hosts) == ("flag", 7)


def test_a_flag_that_was_not_given_changes_nothing(file):
    assert load(file, environ={}, flags={"region": None}).region == "file"


def test_a_flag_of_zero_or_nothing_is_given(file):
    settings = load(file, environ={}, flags={"hosts": 0, "region": ""})
    assert (settings.hosts, settings.region) == (0, "")


def test_the_environments_texts_become_the_settings_types():
    settings = load(
        environ={
            "XENITH_HOSTS": "12",
            "XENITH_SEED": "3",
            "XENITH_SIM_LATENCY_S": "0.25",
            "XENITH_LOG_JSON": "true",
        }
    )
    assert settings.hosts == 12
    assert settings.seed == 3
    assert settings.sim_latency_s == 0.25
    assert settings.log_json is True


@pytest.mark.parametrize("password", ["1234", "null", "true", "1e3"])
def test_a_password_that_looks_like_something_else_stays_a_text(password):
    assert load(environ={"XENITH_ADMIN_PASSWORD": password}).admin_password == password


def test_other_programs_variables_are_not_ours():
    assert load(environ={"HOSTS": "9", "XENITH_DEBUG": "1"}) == Settings()


def test_an_unknown_setting_is_named_with_its_file(tmp_path):
    path = tmp_path / "xenith.toml"
    path.write_text("hots = 3\n")
    with pytest.raises(Invalid, match=r"hots") as caught:
        load(path, environ={})
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("environ", "named"),
    [({"XENITH_HOSTS": "many"}, "hosts"), ({"XENITH_LOG_JSON": "perhaps"}, "log_json")],
)
def test_a_wrong_value_names_its_setting(environ, named):
    with pytest.raises(Invalid, match=named):
        load(environ=environ)


def test_a_file_that_is_away_or_is_not_toml_is_named(tmp_path):
    with pytest.raises(Invalid, match=r"away\.toml"):
        load(tmp_path / "away.toml", environ={})
    broken = tmp_path / "broken.toml"
    broken.write_text("hosts =\n")
    with pytest.raises(Invalid, match=r"broken\.toml"):
        load(broken, environ={})


def test_a_file_that_is_not_text_is_refused_not_a_crash(tmp_path):
    path = tmp_path / "xenith.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Invalid, match=r"cannot be read"):
        load(path, environ={})
