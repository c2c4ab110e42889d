"""The operating system, files and logs: everything that is Linux, a path, a thread or a log record.

Knows no turn and no worker. Read `kernel` first: what only Linux has stands behind it, with a portable form.
"""
