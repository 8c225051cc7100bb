"""Regular expressions that tenants send, in time linear to the text.

Python's own engine can be made to run for hours by an expression of twenty characters; RE2 cannot.
PostgreSQL has an engine of its own, behind the same operator.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from xenith.core.errors import Invalid

#: Bytes that one compiled expression may take.
MEMORY_BYTES_MAX = 1024 * 1024


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """Compile an expression.

    Raises:
        Invalid: it is none.
    """
    import re2  # noqa: PLC0415 - only a list with such a filter pays for it

    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY_BYTES_MAX
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        raise Invalid(f"Invalid regular expression {pattern[:64]!r}: {error}") from error


def matches(pattern: str, text: str | None) -> bool:
    """Tell whether an expression is found in a text; SQLite's ``REGEXP``.

    >>> matches("^a.*b$", "axxb"), matches("b", None)
    (True, False)
    """
    return text is not None and compiled(pattern).search(text) is not None
