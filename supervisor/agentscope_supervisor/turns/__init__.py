"""The order of turns: sessions, queues, limits, and which slot a turn belongs to.

Knows processes by number only, and no HTTP. Read `ledger` first, then `service`, which executes its commands.
"""
