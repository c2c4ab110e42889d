"""The operator's socket: its server, what each command does, and the client that commands use.

Read `handlers` first: it has the commands.
"""
