"""Chooses a host for a server: a table of hosts, filters, weighers, and why.

Everything but ``HostTable`` is a pure function. Nothing here waits, reads rows or knows a service:
the compute cell loads the table from its rows, asks ``choose``, then claims.
"""
