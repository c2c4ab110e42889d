"""A small platform for instances of agentscope-supervisor: the other side of the key `platform`.

For people who build a real one, as a model of the two routes and of when an ask is over; and for tests, as a
platform that can be told to lie. It keeps all in memory, and trusts whoever can reach its page.
Run it with `python -m reference_platform`; read next: `registry`, `server`, `lies`.
"""
