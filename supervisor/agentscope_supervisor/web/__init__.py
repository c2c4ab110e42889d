"""The HTTP routes, one file for each family, and what they share: authentication, responses, traces.

Reaches the instance only through the objects that `daemon` passes to `app`. Read `app` first: it has the
table of routes.
"""
