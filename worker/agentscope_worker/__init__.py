"""The process that hosts an App: the runtime, the App, and its turns. Never imports the supervisor package.

Start reading at `main`; `serve` is one turn, `host` loads the App, `runtime` is what apps import.
"""
