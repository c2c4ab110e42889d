"""agentapp.yaml as typed, immutable values, and the errors of a file that does not fit.

Knows nothing of the link. Pure. Read `settings` first.
"""
