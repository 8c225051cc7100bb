"""Compute v2.1 (nova): flavors, keys, servers, and the cell that builds and runs them."""
