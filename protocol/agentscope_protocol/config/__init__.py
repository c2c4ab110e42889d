"""agentapp.yaml as typed, immutable values, and the error report for an invalid file. Pure.

Must not import `wire`. Read `settings` first.
"""
