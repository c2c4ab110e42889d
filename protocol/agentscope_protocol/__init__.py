"""Code that the supervisor and the workers share: the wire protocol between them, and the configuration.

Everything here is pure (no I/O, no clock), except `wire.link`, an asyncio protocol over `wire.endpoint`.

Read next: `wire.frames` for the messages, `wire.endpoint` for the rules, `config.settings` for
agentapp.yaml. The two packages do not import each other.
"""
