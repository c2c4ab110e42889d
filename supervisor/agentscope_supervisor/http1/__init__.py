"""Bytes to requests, and answers to bytes: listener, connections, limits, and the HTTP/1.1 rules.

Knows no route. Read `listener` first.
"""
