"""Runs while they last, seen from the host: a group's records and ends, taking up, memory, processes, progress.

The loop itself is ``research.run``. No number is computed here.
"""
