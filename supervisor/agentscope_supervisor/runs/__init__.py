"""What turns put out: sent to clients, kept, stored, and read again.

Knows no HTTP and no worker process. Read `log` first.
"""
