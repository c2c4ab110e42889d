"""Exchanges: HTTP requests and WebSockets of a hosted app, and the worker that each of them goes to.

Knows the link's frames and slots, and neither HTTP connections nor processes. Read `service` first, then
`placement` and `heads`.
"""
