"""The platform: beats, its answers, and the signals that they carry.

Read `decisions` first: it decides; `loop` does the I/O.
"""
