"""The nouns of the supervisor: requests, turns, runs, wire formats, errors, and idempotency keys. Pure.

Imports no other package of the supervisor; every other package may import it. Read `turn` first.
"""
