"""Debian packages, downloaded and unpacked into a directory without installing them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from xenith.core.errors import Unavailable

#: 35 MB over a slow line.
_TIMEOUT_S = 900.0
_COMPLAINT_CHARACTERS_MAX = 1500


def check_tools(name: str) -> None:
    """Check that packages can be had here.

    Raises:
        Unavailable: this is no Debian.
    """
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(
                f"{name} is taken from Debian's packages and {tool} is not here: "
                "this needs a Debian machine"
            )


def unpack(names: Sequence[str], work: Path) -> Path:
    """Download packages and give the directory they are unpacked into.

    Raises:
        Unavailable: this is no Debian, or its package lists or the network are not at hand.
    """
    check_tools(names[0])
    debs, root = work / "debs", work / "root"
    for directory in (debs, root):
        directory.mkdir(parents=True, exist_ok=True)
    run("apt-get", "-qq", "download", *names, directory=debs, next_step="apt-get update")
    for deb in sorted(debs.glob("*.deb")):
        run("dpkg-deb", "--extract", str(deb), str(root), directory=work)
    return root


def run(
    *command: str,
    directory: Path,
    next_step: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program and give what it prints.

    Raises:
        Unavailable: it is not there, fails or takes too long; the message has what it said.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a list of our own words
            command,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()[-_COMPLAINT_CHARACTERS_MAX:]
        hint = f" (try: {next_step})" if next_step else ""
        raise Unavailable(f"{command[0]} failed: {said}{hint}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    return done.stdout
