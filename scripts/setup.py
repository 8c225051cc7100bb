"""Set the checkout up: ``.venv`` from the lock, then the Debian packages that may be installed.

Runs on a bare Python 3.11 with the standard library only, may run any number of times, and is
quick when nothing changed. The environment is required; a Debian package that cannot be
installed is only named, with what is left out, so that the rest can go on.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
#: What `.venv` was made from; `xenith doctor` reads it too.
STAMP = VENV / "setup.json"
RUN_LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_MARK = "# Made by Xenith's set-up while it installs packages."
#: Daemons that the packages would start now and at each boot, one of them on every address.
UNITS = ("epmd.service", "epmd.socket", "postgresql.service", "rabbitmq-server.service")
APT_TIMEOUT_S = 1800


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def main(arguments: list[str]) -> int:
    """Make the environment and install packages; 0 unless the environment cannot be made."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in order with what is said of errors
    try:
        prepare_environment(DEV_LOCK if "--dev" in arguments else RUN_LOCK)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    install_debian_packages()
    return 0


def prepare_environment(lock: Path) -> None:
    """Bring `.venv` in step with a lock and the project's own metadata."""
    wanted = {"lock": lock.name, **fingerprint(lock)}
    made = read_stamp()
    # The programs in `.venv/bin` name its path, so an environment does not survive being moved.
    is_here = made.get("root", str(ROOT)) == str(ROOT)
    has_python = is_here and succeeds([str(VENV_PYTHON), "-c", "import pip"])
    if has_python and is_in_step(made, wanted):
        return
    if not has_python:
        make_venv()
    pip = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    print(f"setup: installing {lock.name} into .venv")
    STAMP.unlink(missing_ok=True)
    run([*pip, "--require-hashes", "-r", str(lock)], f"pip could not install {lock.name}")
    # The build tools come from the lock, so that nothing is fetched to build the project itself.
    own = ["--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT)]
    run([*pip, *own], "pip could not install the project into .venv")
    # Compiled once here, so that the first start is as quick as the second.
    succeeds([str(VENV_PYTHON), "-m", "compileall", "-q", str(ROOT / "src")])
    STAMP.write_text(json.dumps(wanted, indent=1) + "\n")


def fingerprint(lock: Path) -> dict[str, str]:
    """Digest what an environment made from a lock depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    metadata = {name: project.get(name) for name in ("build-system", "project")}
    return {
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "project_sha256": hashlib.sha256(json.dumps(metadata).encode()).hexdigest(),
        "root": str(ROOT),
    }


def read_stamp() -> dict[str, str]:
    """Read what `.venv` was made from; nothing where nobody knows."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, TypeError, ValueError):
        return {}


def is_in_step(made: dict[str, str], wanted: dict[str, str]) -> bool:
    """Tell whether `.venv` was made from this; what is made for tests will also run the cloud."""
    if wanted["lock"] == RUN_LOCK.name and made.get("lock") == DEV_LOCK.name:
        wanted = {"lock": DEV_LOCK.name, **fingerprint(DEV_LOCK)}
    return made == wanted


def make_venv() -> None:
    """Make an empty `.venv` with pip in it, installing Debian's venv package when it is away."""
    print(f"setup: making .venv with {sys.executable}")
    if not succeeds([sys.executable, "-c", "import ensurepip, venv"]):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        apt_install([package])
        if not succeeds([sys.executable, "-c", "import ensurepip, venv"]):
            raise SetupError(f"this Python cannot make environments; install {package}, run again")
    run([sys.executable, "-m", "venv", "--clear", str(VENV)], "venv could not make .venv")


def install_debian_packages() -> None:
    """Install what `debian-packages.txt` lists and is missing, where that is allowed."""
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        print("setup: not a Debian system; `xenith doctor` tells what is missing")
        return
    purposes = wanted_packages((ROOT / "scripts" / "debian-packages.txt").read_text())
    missing = [name for name in purposes if not is_installed(name)]
    if missing:
        apt_install(missing)
    for name in missing:
        if not is_installed(name):
            print(f"setup: without {name} is left out: {purposes[name]}")


def wanted_packages(text: str) -> dict[str, str]:
    """Read the list: package to purpose."""
    packages = {}
    for line in text.splitlines():
        name, _, purpose = line.partition("#")
        if name.strip():
            packages[name.strip()] = purpose.strip()
    return packages


def is_installed(package: str) -> bool:
    """Tell whether dpkg holds a package, or one that is in its place, to be installed.

    Node.js of others than Debian brings npm, and would be removed for Debian's.
    """
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}, ${Provides}\\n"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    provided = (line.partition(" ") for line in found.stdout.splitlines())
    return any(
        package in (name.split(" ")[0] for name in names.split(", "))
        for status, _, names in provided
        if status == "installed"
    )


def apt_install(packages: list[str]) -> None:
    """Install Debian packages without starting what they bring; a failure is said, not raised."""
    privilege = privilege_prefix()
    if privilege is None:
        print(f"setup: neither root nor sudo without a password; missing: {' '.join(packages)}")
        return
    print(f"setup: installing Debian packages: {' '.join(packages)}")
    apt = [*privilege, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y"]
    apt += ["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=2"]
    known_units = {unit for unit in UNITS if is_unit(unit)}
    made_policy = forbid_daemon_starts(privilege)
    try:
        for step in (["update"], ["install", "--no-install-recommends", *packages]):
            done = apt_run([*apt, *step])
            if done:
                print(f"setup: apt-get {step[0]} failed:\n{done}", file=sys.stderr)
    finally:
        if made_policy:
            subprocess.run([*privilege, "rm", "-f", str(POLICY)], check=False)
    new_units = [unit for unit in UNITS if unit not in known_units and is_unit(unit)]
    if new_units and shutil.which("systemctl"):
        disable = [*privilege, "systemctl", "--quiet", "disable", *new_units]
        subprocess.run(disable, capture_output=True, check=False)


def privilege_prefix() -> list[str] | None:
    """Give what precedes a command that needs root: nothing, sudo, or None where it is refused."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and succeeds(["sudo", "-n", "true"]):
        return ["sudo", "-n"]
    return None


def forbid_daemon_starts(privilege: list[str]) -> bool:
    """Tell Debian's packages not to start their daemons; False where the machine has its own rule.

    RabbitMQ would listen on every address, and the tests start servers of their own. A file with
    our mark was left by a run that was killed, and is ours to replace and remove.
    Source: Debian's invoke-rc.d, policy-rc.d: status 101 forbids the action.
    """
    if POLICY.exists() and POLICY_MARK not in POLICY.read_text(errors="replace"):
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".policy") as file:
        file.write(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
        file.flush()
        install = [*privilege, "install", "-m", "755", file.name, str(POLICY)]
        return subprocess.run(install, check=False).returncode == 0


def is_unit(name: str) -> bool:
    """Tell whether systemd's directories hold a unit, whether or not systemd runs."""
    return any(Path(parent, name).exists() for parent in ("/lib/systemd/system", "/etc/systemd"))


def apt_run(command: list[str]) -> str:
    """Run apt-get; give the end of what it said if it failed, else nothing."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {APT_TIMEOUT_S} s"
    return "" if done.returncode == 0 else "\n".join(done.stdout.splitlines()[-8:])


def succeeds(command: list[str]) -> bool:
    """Tell whether a command exits 0, without showing what it says."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(command: list[str], failure: str) -> None:
    """Run a command that must succeed.

    Raises:
        SetupError: it did not; its own words went to standard error.
    """
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupError(failure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
