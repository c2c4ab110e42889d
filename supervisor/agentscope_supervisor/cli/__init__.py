"""The command line: one function for each command, and how their answers look in a terminal.

Nothing imports this room. Read `main` first.
"""
