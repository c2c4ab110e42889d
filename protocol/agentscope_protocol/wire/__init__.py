"""The link between supervisor and worker: frames, encoding, credit, streams, and the connection.

Pure, except `link`. Must not import `config`. Read `frames` first, then `endpoint`.
"""
