"""The worker processes of an instance: slots, rollouts, process life cycle, links and health.

Start with `lifecycle` and `fleet`: they make the decisions, which the other modules carry out.
"""
