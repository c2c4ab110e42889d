"""Starting and ending single processes: spawn, fork, restart back-off, output, and orphan processes.

Knows nothing about slots and turns: `workers` decides which processes should exist. Start with `spawn`.
"""
