"""The locks are in step with pyproject.toml, hashed, and name no index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN, DEV = "requirements.lock", "requirements-dev.lock"


def entries(lock: str) -> list[str]:
    """Give the entries of a lock, a pin with its hashes each."""
    return re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())


def pins(lock: str) -> dict[str, set[str]]:
    """Read a lock: name to the versions pinned, one for each marker."""
    found: dict[str, set[str]] = {}
    for entry in entries(lock):
        name, version = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", entry).groups()
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def group(name: str) -> list[str]:
    """Give the requirements of a dependency group, with the groups that it includes."""
    found = []
    for item in PROJECT["dependency-groups"][name]:
        found += group(item["include-group"]) if isinstance(item, dict) else [item]
    return found


def wanted(lock: str) -> list[Requirement]:
    """Give what pyproject.toml wants in a lock."""
    extras = [
        text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra
    ]
    own = group("build" if lock == RUN else "dev")
    return [Requirement(text) for text in PROJECT["project"]["dependencies"] + extras + own]


@pytest.mark.parametrize("lock", [RUN, DEV])
def test_every_requirement_is_pinned_to_a_version_that_satisfies_it(lock):
    pinned = pins(lock)
    unmet = [
        str(requirement)
        for requirement in wanted(lock)
        if not any(
            requirement.specifier.contains(version, prereleases=True)
            for version in pinned.get(canonicalize_name(requirement.name), ())
        )
    ]
    assert unmet == [], f"run make lock: {unmet}"


@pytest.mark.parametrize("lock", [RUN, DEV])
def test_every_pin_is_hashed_and_nothing_names_an_index(lock):
    text = (ROOT / lock).read_text()
    assert all("--hash=sha256:" in entry for entry in entries(lock))
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("--hash", ""), re.MULTILINE)


def test_what_runs_the_cloud_is_the_same_under_test():
    developed = pins(DEV)
    different = {
        name: versions for name, versions in pins(RUN).items() if developed.get(name) != versions
    }
    assert different == {}
