"""The platform: beats, its answers, and the signals that they carry.

Read `platform_signal` first: it decides; `heartbeat` does the I/O.
"""
