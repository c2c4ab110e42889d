"""What supervisor and worker share: the words between them, and the settings.

Everything here is pure (no I/O, no clock) but `link`, which is an asyncio protocol over `connection`.
Read `frames` for the words, `connection` for the rules, `settings` for agentapp.yaml.
"""
