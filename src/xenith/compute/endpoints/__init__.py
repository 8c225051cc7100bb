"""Compute's rows of the endpoint table and their thin handlers: a file per noun."""
