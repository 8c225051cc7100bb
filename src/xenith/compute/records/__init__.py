"""Compute's rows: a file per noun, tables and transaction functions together."""
