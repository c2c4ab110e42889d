"""One interface to AgentScope 1.x and 2.x. No code outside this package uses AgentScope's classes.

Read `majors` first: it defines the interface and selects the installed major.
"""
