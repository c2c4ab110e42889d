"""The link between supervisor and worker: frames, their bytes, credit, streams, and the connection.

Knows nothing of the configuration. Pure but for `link`. Read `frames` first, then `connection`.
"""
