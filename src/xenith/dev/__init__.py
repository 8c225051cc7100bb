"""Whole clouds put together: what `xenith up` runs, and what measures it.

Here alone the services meet each other and the cell. Nothing imports this but ``cli/`` and tests.
"""
