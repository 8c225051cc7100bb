"""The files of a cloud that hold secrets, and the addresses that clients are given.

All are readable by their owner only. Passwords live in ``clouds.yaml``, where clients look for
them, and nowhere else in the clear.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from cryptography.fernet import Fernet

from xenith.compute.operations.context import Seal
from xenith.core.ids import Ids
from xenith.core.settings import Settings

CLOUDS_FILE = "clouds.yaml"
_ENTRY = re.compile(r'^  (xenith|xenith-demo):|^      password: (".*")$')


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    draft = path.with_suffix(path.suffix + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def open_seal(directory: Path) -> Seal:
    """Give the cell's seal, making its key the first time."""
    path = directory / "seal.key"
    if not path.exists():
        write_private(path, Fernet.generate_key().decode())
    fernet = Fernet(path.read_text().strip())
    return Seal(close=fernet.encrypt, open=fernet.decrypt)


def host_password(directory: Path, ids: Ids) -> str:
    """Give the password of the hosts that this cloud runs itself, made the first time."""
    path = directory / "hosts.password"
    if not path.exists():
        write_private(path, ids.secret(24))
    return path.read_text().strip()


def passwords(settings: Settings, directory: Path, ids: Ids) -> tuple[str, str]:
    """Give the admin's and the demo user's passwords: as set, as they were, or made at random."""
    known = read_passwords(directory / CLOUDS_FILE)
    return (
        settings.admin_password or known.get("xenith") or ids.secret(16),
        settings.demo_password or known.get("xenith-demo") or ids.secret(16),
    )


def read_passwords(path: Path) -> dict[str, str]:
    """Read the passwords of a ``clouds.yaml`` that ``write_clouds`` wrote."""
    found: dict[str, str] = {}
    cloud = ""
    for line in path.read_text().splitlines() if path.exists() else ():
        match = _ENTRY.match(line)
        if match and match[1]:
            cloud = match[1]
        elif match and cloud:
            found[cloud] = json.loads(match[2])
    return found


def write_clouds(
    directory: Path, *, site_url: str, region: str, admin_password: str, demo_password: str
) -> Path:
    """Write what `openstack --os-cloud xenith` and the SDKs read; give the file."""
    path = directory / CLOUDS_FILE
    entries = "".join(
        f"  {cloud}:\n"
        f"    region_name: {json.dumps(region)}\n"
        f"    auth:\n"
        f"      auth_url: {json.dumps(site_url + '/identity/v3')}\n"
        f"      username: {user}\n"
        f"      password: {json.dumps(password)}\n"
        f"      project_name: {user}\n"
        f"      user_domain_name: Default\n"
        f"      project_domain_name: Default\n"
        for cloud, user, password in (
            ("xenith", "admin", admin_password),
            ("xenith-demo", "demo", demo_password),
        )
    )
    write_private(path, f"# Clients find this through OS_CLIENT_CONFIG_FILE.\nclouds:\n{entries}")
    return path
