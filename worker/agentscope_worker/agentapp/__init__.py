"""The API of agentscope-runtime's AgentApp, for projects that import `agentscope_runtime`.

This room answers to the module names of agentscope-runtime when that package is absent, or cannot work
because AgentScope 2.x is installed. It is an ASGI app of its own, based on FastAPI, and knows nothing of the
link to the supervisor. Importing this package must stay cheap: before a project asks for
`agentscope_runtime`, only `finder` may be imported.

Read next: `finder` for the module names, `app` for AgentApp, and `events` for the format of its streams.
"""
