"""What Xenith measures of itself: a file per figure, each giving plain data.

A measured cloud is a process of its own, so that its processor time and memory can be read, and
the clients' cost is not counted as its own.
"""
