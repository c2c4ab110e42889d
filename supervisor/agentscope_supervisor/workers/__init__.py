"""Which workers exist and how they do: slots, rollouts, the life of a process, its link, its health.

Read `lifecycle` and `fleet` first: they decide, the others carry out.
"""
