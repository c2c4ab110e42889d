"""The control socket: its server, the handlers of the operator's commands, and the client that the CLI uses.

May know every room below it; `cli` uses it, and `daemon` starts it. Read `handlers` first.
"""
