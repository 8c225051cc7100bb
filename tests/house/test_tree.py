"""What holds for every file of the tree."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from xenith.cli import nouns

ROOT = Path(__file__).parents[2]

#: Places that stand on one machine only, and registries that a user's own settings choose.
FOREIGN = re.compile(
    r"/[w]ork/(?:main|shared)|/tmp/[x]enith\b|/[r]oot/\.|\.[p]yenv"
    r"|[p]ypi\.org|[p]ythonhosted\.org|[r]egistry\.npmjs|(?:deb|security)\.[d]ebian\.org"
    r"|[d]ocker\.io|[g]hcr\.io|[q]uay\.io|[p]roxy\.golang\.org"
)
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")


def tree() -> list[Path]:
    """List the files that are or would be committed, but for this one, which names what it bans."""
    listing = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others"]
    names = subprocess.run(
        [*listing, "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    return sorted(path for path in paths if path.is_file() and path != Path(__file__))


def text(path: Path) -> str:
    """Read a file as text; what is not text is nothing."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def named(pattern: re.Pattern[str]) -> list[str]:
    """List where a pattern stands in the tree, with the line."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tree()
        for number, line in enumerate(text(path).splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.slow
def test_no_file_names_a_place_of_one_machine_or_a_registry():
    assert named(FOREIGN) == []


@pytest.mark.slow
def test_nothing_is_left_to_do_later_in_a_comment():
    assert named(UNFINISHED) == []


def test_every_module_says_what_it_holds():
    # Of a test, its sentences say it.
    silent = [
        str(path.relative_to(ROOT))
        for path in tree()
        if path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] != "tests"
        and not ast.get_docstring(ast.parse(text(path)))
    ]
    assert silent == []


def test_the_changelog_has_a_place_for_what_comes_next():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    section = changelog.split("## [Unreleased]")[1].split("\n## ")[0]
    kinds = set(re.findall(r"^### (.+)$", section, re.MULTILINE))
    assert kinds
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_readme_fits_one_screen_and_names_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 60
    assert "make demo" in readme
    assert "make test" in readme


def test_every_command_is_on_the_page_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert [noun.name for noun in nouns.NOUNS if f"`xenith {noun.name}" not in page] == []


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs"])
def test_links_between_pages_lead_somewhere(page):
    pages = [ROOT / page] if page.endswith(".md") else sorted((ROOT / page).rglob("*.md"))
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in pages
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
        if not (path.parent / link).exists()
    ]
    assert broken == []


def test_decisions_are_numbered_without_a_gap_and_say_their_status():
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(record.name[:4]) for record in records]
    assert numbers == list(range(1, len(records) + 1))
    for record in records:
        assert re.search(r"^Status: (Accepted|Superseded)", record.read_text(), re.MULTILINE), (
            record
        )
