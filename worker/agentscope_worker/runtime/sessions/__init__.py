"""The session store: `runtime.session`, in files or in Redis, and who may write a session.

Read `session_store` first.
"""
