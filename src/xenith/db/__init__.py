"""Rows: transactions as plain functions, on SQLite inline or PostgreSQL in a pool of threads.

A room writes its tables on ``GLOBAL`` or ``CELL``, its transactions as functions whose first
argument is a ``Tx``, and runs them with ``await db.run(function, ...)``. There is no ``await`` in a
transaction, so none is held across a call to the outside, and any may be run again.
"""

from xenith.db.compiler import Prepared
from xenith.db.database import Database, open_database
from xenith.db.schema import CELL, GLOBAL, Flag, Json
from xenith.db.transaction import Row, Tx

__all__ = ["CELL", "GLOBAL", "Database", "Flag", "Json", "Prepared", "Row", "Tx", "open_database"]
