"""``xenith version``: the versions that matter in a bug report."""

from __future__ import annotations

import platform
import sqlite3
from importlib import metadata

from cyclopts import App

from xenith import __version__
from xenith.cli.output import Output, show

app = App(help="Show the versions that matter in a bug report.")


@app.default
def version(*, output: Output = "table") -> None:
    """Show the versions that matter in a bug report."""
    libraries = ("msgspec", "sqlalchemy", "starlette", "uvicorn", "numpy")
    show(
        {
            "xenith": __version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "system": platform.platform(),
            **{name: metadata.version(name) for name in libraries},
        },
        output,
    )
