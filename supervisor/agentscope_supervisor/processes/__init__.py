"""How one process starts and ends: spawn, fork, back-off, output, and orphans.

Knows nothing of slots and turns: which processes should exist is decided in `workers`. Read `spawn` first.
"""
