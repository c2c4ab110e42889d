"""What the supervisor talks about: requests, turns, their errors, and idempotency keys. Pure.

Knows nothing of the other rooms; each of them may import it. Read `turn` first.
"""
