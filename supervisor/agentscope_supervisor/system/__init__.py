"""Operating system, files and logs: everything that depends on Linux, paths, threads or log records.

Nothing here knows about turns or workers. Start with `kernel`, which wraps Linux-only features and their
portable replacements.
"""
