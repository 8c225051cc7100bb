"""The two trees of tables, and the two column types that are stored other than they are read.

``GLOBAL`` holds what an API cell owns (projects, flavors, images, networks, requests), ``CELL``
what a compute cell owns (instances, hosts, sagas). A tree of one keeps both in one database.
"""

from __future__ import annotations

import sqlalchemy as sa

GLOBAL = sa.MetaData()
CELL = sa.MetaData()


class Json(sa.types.TypeDecorator[object]):
    """Anything that JSON can hold, as text; read back as dicts, lists and plain values."""

    impl = sa.Text
    cache_ok = True


class Flag(sa.types.TypeDecorator[bool]):
    """A boolean as 0 or 1, so that both databases compare and index it alike."""

    impl = sa.SmallInteger
    cache_ok = True
