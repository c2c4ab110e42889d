"""The routes: one file for each family, and what they share (who may ask, how a turn is answered, traces).

Uses the instance only through interfaces that `daemon` implements. Read `app` first: it has the
routes.
"""
