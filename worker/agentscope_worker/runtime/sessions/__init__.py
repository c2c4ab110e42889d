"""The session store, `runtime.session`: states in files or in Redis, and which turn may write a session.

Read `store` first.
"""
