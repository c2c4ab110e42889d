"""The project folder: its configuration, its archive, its template, and the watch for changed files.

Knows no running instance. Read `config` first.
"""
