"""The ground that every room stands on: clock, ids, randomness, errors, settings, log, tasks.

Imports nothing of ours. Nothing above reads the time, makes an id or draws a random number
except through a ``World`` from here, so that a whole cloud replays from one seed.
"""
