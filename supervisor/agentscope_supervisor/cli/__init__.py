"""The command line: one function per command, and how results look in a terminal.

The top layer: may import every room, and no room imports it. Read `main` first.
"""
