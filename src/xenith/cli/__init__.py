"""The ``xenith`` command: a file per noun, loaded only when that noun is asked for.

What every call pays for stands here and in ``nouns``: the standard library only, so that the
list of commands is on the screen in a few hundredths of a second. A noun's module defines ``app``,
a cyclopts ``App``; what it returns is the exit code, None meaning 0.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

from xenith import __version__
from xenith.cli import errors, nouns
from xenith.cli.errors import INTERRUPTED, OUTPUT_CLOSED, USAGE, exit_code
from xenith.core.errors import XenithError


def main() -> int:
    """Run the command of this process; the entry point."""
    sys.excepthook = _report_bug
    return run(sys.argv[1:])


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit code; errors are said in a few lines."""
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except (XenithError, OSError) as error:
        if _is_debugging():
            raise
        print("\n".join(errors.explain(error)), file=sys.stderr)
        return exit_code(error)


def _dispatch(arguments: list[str]) -> int:
    first, *rest = arguments or ["--help"]
    if first in {"-h", "--help", "help"} and not rest:
        print(nouns.overview())
        return 0
    if first == "--version":
        print(f"xenith {__version__}")
        return 0
    if first == "help":
        first, *rest = [*rest, "--help"]
    noun = nouns.find(first)
    if noun is None:
        return _refuse(f"there is no command {first!r}", nouns.suggest(first))
    return _run_noun(noun, rest)


def _run_noun(noun: nouns.Noun, arguments: list[str]) -> int:
    # A tenth of a second of imports that the overview and the version do without.
    from cyclopts import App  # noqa: PLC0415
    from cyclopts.exceptions import CycloptsError  # noqa: PLC0415

    root = App(
        name="xenith",
        version_flags=[],
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    root.command(noun.app(), name=noun.name)
    try:
        result = root([noun.name, *arguments])
    except CycloptsError as error:
        return _refuse(str(error), f"xenith {noun.name} --help tells what it takes")
    return result if isinstance(result, int) else 0


def _refuse(message: str, next_step: str) -> int:
    print(f"error: {message}\nnext: {next_step}", file=sys.stderr)
    return USAGE


def _is_debugging() -> bool:
    return os.environ.get("XENITH_DEBUG", "") not in {"", "0"}


def _report_bug(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Say what no row of the table foresaw; the exit code is then Python's own, 1."""
    if _is_debugging():
        sys.__excepthook__(kind, error, traceback)
        return
    print("\n".join(errors.explain(error)), file=sys.stderr)
