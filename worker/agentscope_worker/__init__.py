"""The worker process that hosts an App. Must not import the supervisor package.

Read `main` first. `serve` runs the turns, `host` loads the App, `runtime` is the API that projects import.
"""
