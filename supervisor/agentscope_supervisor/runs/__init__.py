"""Runs: the output of turns, as it is sent to clients, kept in memory, stored on disk, and read again.

Knows neither HTTP nor worker processes. Read `log` first.
"""
