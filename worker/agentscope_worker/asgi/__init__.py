"""The host of an ASGI app in a worker: each exchange of the link is one call of the app.

Owns the messages between an exchange and the app. It must not know HTTP itself: the supervisor reads requests
and writes responses. The app runs as it would under uvicorn: with the same scope, the same messages and the
same errors. `runtime.asgi_app` runs its lifespan.

Read next: `exchanges` for the life of an exchange, then `http_exchange` and `websocket_exchange`.
"""
