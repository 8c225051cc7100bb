"""The frame of the command line: what is quick, what is refused, and how errors end."""

import subprocess
import sys

import pytest

from xenith import __version__, cli
from xenith.cli import nouns
from xenith.cli.nouns import Noun
from xenith.core.errors import Conflict

#: What costs tenths of a second to import and the overview does without.
HEAVY = {"cyclopts", "rich", "msgspec", "sqlalchemy", "numpy", "structlog", "asyncio"}


@pytest.fixture
def noun(monkeypatch, tmp_path):
    """Add a command `probe` whose body is given as source; cleaned up after the test."""

    def add(body):
        (tmp_path / "probe_noun.py").write_text(
            "from cyclopts import App\n"
            "from xenith.core.errors import *\n"
            "app = App(help='Probe.')\n"
            "@app.default\n"
            "def probe(*, count: int = 0):\n" + "".join(f"    {line}\n" for line in body)
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "probe_noun", raising=False)
        row = Noun("probe", "probe_noun", "Probe.")
        monkeypatch.setattr(nouns, "NOUNS", (*nouns.NOUNS, row))

    return add


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_names_every_command(arguments, capsys):
    assert cli.run(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {noun.name} " in shown and noun.summary in shown for noun in nouns.NOUNS)
    assert max(len(line) for line in shown.splitlines()) <= 100


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_overview_and_the_version_import_nothing_heavy(option):
    code = f"import sys; from xenith.cli import run; run(['{option}']); print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not HEAVY & set(shown.splitlines()[-1].split())


def test_the_version_is_the_packages(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"xenith {__version__}\n"


def test_a_command_that_is_not_there_is_refused_with_the_likely_one(capsys):
    assert cli.run(["docter", "-o", "json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: there is no command 'docter'",
        "next: did you mean xenith doctor?",
    ]


def test_a_command_like_nothing_we_have_points_to_the_list(capsys):
    assert cli.run(["zzz"]) == 2
    assert "next: xenith --help lists the commands" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["probe", "--help"], ["help", "probe"]])
def test_a_commands_own_help_is_shown_under_its_full_name(arguments, noun, capsys):
    noun(["raise AssertionError"])
    assert cli.run(arguments) == 0
    assert "Usage: xenith probe" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--count", "many"], ["--cuont", "1"], ["stray"], ["--count"]]
)
def test_wrong_options_are_refused_in_two_lines(arguments, noun, capsys):
    noun(["raise AssertionError"])
    assert cli.run(["probe", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[-1] == "next: xenith probe --help tells what it takes"


@pytest.mark.parametrize(
    ("body", "code"), [("return None", 0), ("return count", 3), ("return 'text'", 0)]
)
def test_what_a_command_returns_is_the_exit_code(body, code, noun):
    noun([body])
    assert cli.run(["probe", "--count", "3"]) == code


def test_an_error_of_ours_is_said_with_cause_and_next_step(noun, capsys):
    noun(
        [
            "try:",
            "    raise ValueError('the row is gone')",
            "except ValueError as error:",
            "    raise Conflict('server x is being built', next_step='wait') from error",
        ]
    )
    assert cli.run(["probe"]) == 4
    assert capsys.readouterr().err.splitlines() == [
        "error: server x is being built",
        "cause: ValueError: the row is gone",
        "next: wait",
    ]


def test_a_file_that_is_not_there_is_said_by_name(noun, capsys):
    noun(["open('/nowhere/disk.img')"])
    assert cli.run(["probe"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "error: /nowhere/disk.img: No such file or directory"
    )


def test_debugging_shows_where_an_error_came_from(noun, monkeypatch):
    noun(["raise Conflict('no')"])
    monkeypatch.setenv("XENITH_DEBUG", "1")
    with pytest.raises(Conflict):
        cli.run(["probe"])


def test_an_interrupt_ends_as_shells_expect(noun, capsys):
    noun(["raise KeyboardInterrupt"])
    assert cli.run(["probe"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("debug", "has_trace"), [("", False), ("0", False), ("1", True)])
def test_a_bug_shows_a_trace_only_when_asked(debug, has_trace):
    code = (
        "import sys, xenith.cli as cli\n"
        "cli.nouns.overview = lambda: 1 / 0\n"
        "sys.argv = ['xenith', '--help']\n"
        "sys.exit(cli.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"XENITH_DEBUG": debug},
        check=False,
    )
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) is has_trace
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from xenith.cli import run; sys.exit(run(['--help']))"
    shell = ["sh", "-c", f'{sys.executable} -u -c "{code}" | true']
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.stderr == ""
