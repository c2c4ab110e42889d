"""The connection to the platform: heartbeats, the config poll, and the actions that the platform requests.

Knows the instance only through the protocol `Host` in `loop`. Read `decisions` first: it decides; `loop` does
the I/O.
"""
