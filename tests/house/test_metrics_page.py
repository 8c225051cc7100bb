"""The page of metrics says what the code says: each name, kind, label and meaning."""

import re
from pathlib import Path

from xenith.cells.metrics import LINK_COUNTS, NODE_COUNTS
from xenith.dev.metrics import METRICS, PROCESS_METRICS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"


def rows() -> list[str]:
    """Write the page's table from the metrics."""
    return [
        f"| `{metric.name}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels) or 'none'} | {metric.meaning} |"
        for metric in METRICS.values()
    ]


def test_every_metric_is_on_the_page_with_its_labels_and_meaning():
    page = PAGE.read_text()
    missing = [row for row in rows() if row not in page]
    assert not missing, "put into docs/metrics.md:\n" + "\n".join(rows())


def test_the_page_names_no_metric_that_is_gone():
    page = PAGE.read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(METRICS)
    named = set(re.findall(r"\b(?:xenith|process)_\w+", page))
    assert named == METRICS.keys() | set(PROCESS_METRICS)


def test_names_say_their_kind_and_unit():
    for metric in METRICS.values():
        assert metric.name.startswith("xenith_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name


def test_whatever_a_cell_counts_is_a_metric():
    counted = {
        name
        for path in (ROOT / "src" / "xenith" / "cells").glob("*.py")
        for name in re.findall(r'counts\["(\w+)"\] \+=', path.read_text())
    }
    assert counted == NODE_COUNTS.keys() | LINK_COUNTS.keys()
