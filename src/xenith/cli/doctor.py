"""``xenith doctor``: what this machine offers Xenith, what is missing, and what to do about it.

Each check is a function that gives one finding; the table at the end is the order in which they
are shown. Only what no cloud starts without is ``missing``; the rest is a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from cyclopts import App

import xenith
from xenith.cli.output import Output, show
from xenith.core.errors import Invalid
from xenith.core.limits import GIB, MIB
from xenith.core.settings import Settings, load

#: Below this the tiny image and three guests do not fit.
DISK_FREE_WARN_BYTES = 2 * GIB
#: Below this not even rows and logs do.
DISK_FREE_LEAST_BYTES = 100 * MIB
#: The control plane's budget of 150 MiB, and three guests of 64 MiB under emulation.
MEMORY_FREE_WARN_BYTES = 512 * MIB
#: A thousand simulated hosts hold a connection at either end each.
OPEN_FILES_WARN = 4096
#: A program that only prints its version.
VERSION_TIMEOUT_S = 10.0

app = App(help="Check this machine and say what to do about it.")


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    state: Literal["ok", "warn", "missing"]
    found: str
    next: str = ""


@app.default
def doctor(*, data: str | None = None, listen: str | None = None, output: Output = "table") -> int:
    """Check this machine; exits 1 when something is missing that no cloud starts without.

    Parameters
    ----------
    data:
        The cloud's data directory, whose disk is looked at.
    listen:
        The address that the API would take, HOST:PORT.
    """
    settings = load(flags={"data": data, "listen": listen})
    findings = [check(settings) for check in CHECKS]
    show(findings, output)
    return int(any(finding.state == "missing" for finding in findings))


def check_python(_: Settings) -> Finding:
    """Name the interpreter; an older one than Xenith needs would not have come this far."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_packages(_: Settings) -> Finding:
    """Compare the environment with the lock, where this is a checkout."""
    root = Path(xenith.__file__).parents[2]
    stamp = Path(sys.prefix) / "setup.json"
    if not (root / "requirements.lock").exists():
        return Finding("packages", "ok", f"xenith {xenith.__version__}, installed as a package")
    try:
        made = json.loads(stamp.read_text())
        lock = root / str(made["lock"])
        is_in_step = made["lock_sha256"] == hashlib.sha256(lock.read_bytes()).hexdigest()
    except (KeyError, OSError, TypeError, ValueError):
        return Finding("packages", "warn", "not installed by make setup", "make setup")
    if not is_in_step:
        return Finding("packages", "warn", f"{lock.name} has changed since", "make setup")
    return Finding("packages", "ok", f"as {lock.name} says")


def check_qemu(_: Settings) -> Finding:
    """Look for what runs real servers."""
    program = shutil.which(f"qemu-system-{platform.machine()}")
    if program is None:
        found = "no qemu-system: simulated hosts only"
        return Finding("qemu", "warn", found, _install("qemu-system-x86"))
    version = re.search(r"version (\S+)", _say(program, "--version"))
    if version is None:
        found = f"{program} does not run: simulated hosts only"
        return Finding("qemu", "warn", found, f"run {program} --version and see why")
    return Finding("qemu", "ok", version[1])


def check_disk_tools(_: Settings) -> Finding:
    """Look for what real disks and the tiny image are made with."""
    packages = {
        "qemu-img": "qemu-utils",
        "genisoimage": "genisoimage",
        "cpio": "cpio",
        "busybox": "busybox-static",
        "mcopy": "mtools",
    }
    away = [name for name in packages if shutil.which(name) is None]
    if away:
        found = f"no {', '.join(away)}: no tiny image, no real servers"
        return Finding("disk tools", "warn", found, _install(*(packages[name] for name in away)))
    return Finding("disk tools", "ok", ", ".join(packages))


def check_postgresql(_: Settings) -> Finding:
    """Look for PostgreSQL's own programs; the embedded cloud does without."""
    # Debian keeps them out of PATH, a directory for each major version.
    found = sorted(
        int(path.parts[-3]) for path in Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")
    )
    if found:
        return Finding("postgresql", "ok", str(found[-1]))
    if shutil.which("postgres"):
        return Finding("postgresql", "ok", "on PATH")
    found_text = "not here: rows in SQLite only, and its tests are left out"
    return Finding("postgresql", "warn", found_text, _install("postgresql"))


def check_rabbitmq(_: Settings) -> Finding:
    """Look for RabbitMQ; the embedded cloud does without."""
    # Debian puts it where only root's PATH looks.
    if shutil.which("rabbitmq-server") or Path("/usr/sbin/rabbitmq-server").exists():
        return Finding("rabbitmq", "ok", "installed")
    found = "not here: cells in one process only, and its tests are left out"
    return Finding("rabbitmq", "warn", found, _install("rabbitmq-server"))


def check_port(settings: Settings) -> Finding:
    """Try to take the API's address."""
    host, _, port = settings.listen.rpartition(":")
    if not host or not port.isdecimal():
        raise Invalid(f"listen is {settings.listen!r}, and must be HOST:PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: an address whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except (OSError, OverflowError) as error:
            found = f"{settings.listen} cannot be taken: {error}"
            return Finding("port", "warn", found, "xenith down, or xenith up --listen HOST:PORT")
    return Finding("port", "ok", f"{settings.listen} is free")


def check_disk(settings: Settings) -> Finding:
    """Measure the room on the data directory's disk."""
    data = Path(settings.data).absolute()
    existing = next(path for path in (data, *data.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / GIB:.1f} GiB free at {existing}"
    if free_bytes < DISK_FREE_LEAST_BYTES:
        return Finding("disk", "missing", found, "free some, or choose another --data")
    if free_bytes < DISK_FREE_WARN_BYTES:
        return Finding("disk", "warn", found, "free some, or choose another --data")
    return Finding("disk", "ok", found)


def check_memory(_: Settings) -> Finding:
    """Measure the memory that new processes can have."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return Finding("memory", "warn", "cannot be read here", "run Xenith on Linux")
    free_bytes = int(re.findall(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024
    found = f"{free_bytes / GIB:.1f} GiB available"
    if free_bytes < MEMORY_FREE_WARN_BYTES:
        return Finding("memory", "warn", found, "end something, or run fewer and smaller servers")
    return Finding("memory", "ok", found)


def check_open_files(_: Settings) -> Finding:
    """Look at how many files and connections one process may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES_WARN:
        return Finding("open files", "ok", f"{soft} a process")
    enough = hard == resource.RLIM_INFINITY or hard >= OPEN_FILES_WARN
    step = f"ulimit -n {OPEN_FILES_WARN}" if enough else "raise nofile in /etc/security/limits.conf"
    return Finding("open files", "warn", f"{soft} a process: enough for a small cloud", step)


def check_kvm(settings: Settings) -> Finding:
    """Find whether KVM works, by running a guest; a device node proves nothing."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return Finding("kvm", "warn", "not tried without QEMU", _install("qemu-system-x86"))
    # Half a tenth of a second of imports that other checks do without.
    import asyncio  # noqa: PLC0415

    from xenith.toolstack.backends.qemu.kvm import has_kvm  # noqa: PLC0415

    directory = Path(settings.data).absolute()
    with contextlib.ExitStack() as stack:
        if not directory.is_dir():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xenith-")))
        works = asyncio.run(has_kvm(Path(program), directory))
    if works:
        return Finding("kvm", "ok", "runs guests")
    return Finding(
        "kvm",
        "warn",
        "does not run a guest; real servers are emulated, about ten times slower",
        "choose a machine with hardware (or nested) virtualisation, or go on under emulation",
    )


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    check_python,
    check_packages,
    check_qemu,
    check_kvm,
    check_disk_tools,
    check_postgresql,
    check_rabbitmq,
    check_port,
    check_disk,
    check_memory,
    check_open_files,
)


def _install(*packages: str) -> str:
    return f"make setup as root, or: apt-get install {' '.join(packages)}"


def _say(program: str, argument: str) -> str:
    """Run a program that only prints something; nothing when it does not."""
    try:
        done = subprocess.run(  # noqa: S603 - a program found on PATH and a fixed word
            [program, argument],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
