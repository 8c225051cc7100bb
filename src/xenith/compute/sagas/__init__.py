"""Compute's long operations: a file for each."""
