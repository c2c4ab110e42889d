"""Generators of the pages and pictures in docs/ that come from the code.

Each page is a pure function that returns its text; `pages` lists them, `__main__` writes them. A test in
tests/repository/test_docs.py fails when a committed page differs from a fresh one.
"""
