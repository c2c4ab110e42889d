"""The author's folder: its configuration, its archive, its template, and the watch for edits.

Knows no running instance. Read `config` first.
"""
