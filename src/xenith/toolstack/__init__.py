"""Our own XenAPI server: classes, events, tasks and storage over a backend that acts.

    wire ── server ── classes/ (a file per noun) ── objects (records, events, journal)
                          └── backends/ (sim, qemu)

A ``HostServer`` is one host, a pool of its own. A ``Fleet`` is many in one process.
"""
