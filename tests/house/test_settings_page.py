"""The page of settings says what the code says: each name, default and meaning."""

import json
import re
from pathlib import Path

import msgspec

from xenith.core.settings import Settings

ROOT = Path(__file__).parents[2]


def rows() -> list[str]:
    """Write the page's table from the fields and the comments beside them."""
    source = (ROOT / "src" / "xenith" / "core" / "settings.py").read_text()
    comments = re.findall(r"((?:^ +#: .*\n)+) +(\w+):", source, re.MULTILINE)
    meanings = {name: " ".join(text.replace("#:", "").split()) for text, name in comments}
    lines = []
    for field in msgspec.structs.fields(Settings):
        shown = "none" if field.default is None else f"`{json.dumps(field.default)}`"
        environ = f"`XENITH_{field.name.upper()}`"
        lines.append(f"| `{field.name}` | {environ} | {shown} | {meanings[field.name]} |")
    return lines


def test_every_setting_is_on_the_page_with_its_default_and_meaning():
    page = (ROOT / "docs" / "settings.md").read_text()
    missing = [row for row in rows() if row not in page]
    assert not missing, "put into docs/settings.md:\n" + "\n".join(rows())


def test_the_page_names_no_setting_that_is_gone():
    page = (ROOT / "docs" / "settings.md").read_text()
    names = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert names == list(Settings.__struct_fields__)
