"""The commands of ``xenith`` as a table: the name, the module that holds it, and one line.

To add a command, write its module with a cyclopts ``app`` and add its row.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cyclopts import App


class Noun(NamedTuple):
    """One row: what is typed after ``xenith``."""

    name: str
    module: str
    summary: str

    def app(self) -> App:
        """Load the module and give its commands."""
        app: App = importlib.import_module(self.module).app
        return app


NOUNS = (
    Noun("demo", "xenith.cli.demo", "Start a cloud, boot a server, walk it through its life."),
    Noun("up", "xenith.cli.up", "Start a whole cloud on this machine."),
    Noun("down", "xenith.cli.down", "Stop the cloud that `up --detach` started."),
    Noun("lab", "xenith.cli.lab", "Run a simulated region of many cells on this machine."),
    Noun("serve", "xenith.cli.serve", "Serve a host's XenAPI by itself, for a cloud elsewhere."),
    Noun("host", "xenith.cli.host", "Add hosts to the cloud and list them."),
    Noun("cell", "xenith.cli.cell", "Add cells to the tree, look at them, open and drain them."),
    Noun("image", "xenith.cli.image", "Build the tiny image that boots in seconds."),
    Noun("storage", "xenith.cli.storage", "Draw the disks on hosts, find orphans, shorten chains."),
    Noun("vhd", "xenith.cli.vhd", "Look at disks as chains of VHDs, make and mend them."),
    Noun("explain", "xenith.cli.explain", "Say why a server is where it is, or nowhere."),
    Noun("doctor", "xenith.cli.doctor", "Check this machine and say what to do about it."),
    Noun("bench", "xenith.cli.bench", "Measure builds, lists, cells, disks and the start."),
    Noun("simulate", "xenith.cli.simulate", "Put a simulated region through a storm by its seed."),
    Noun("version", "xenith.cli.version", "Show the versions that matter in a bug report."),
)


def find(name: str) -> Noun | None:
    """Find a command by its name."""
    return next((noun for noun in NOUNS if noun.name == name), None)


def suggest(name: str) -> str:
    """Say what may have been meant.

    >>> suggest("dmeo")
    'did you mean xenith demo?'
    """
    close = difflib.get_close_matches(name, [noun.name for noun in NOUNS], n=1)
    return f"did you mean xenith {close[0]}?" if close else "xenith --help lists the commands"


def overview() -> str:
    """Write what ``xenith --help`` shows."""
    width = max(len(noun.name) for noun in NOUNS)
    rows = "\n".join(f"  {noun.name:{width}}  {noun.summary}" for noun in NOUNS)
    return f"""Usage: xenith COMMAND [OPTIONS]

An OpenStack-API cloud for Xen, on one laptop or many hosts.

Commands:
{rows}

Options:
  -h, --help     This list; xenith COMMAND --help for one command.
  --version      The version alone.

Every command that shows something takes -o json. XENITH_DEBUG=1 shows where an error came from."""
