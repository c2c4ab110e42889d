"""A small platform for instances of agentscope-supervisor: the server that `platform.endpoint` points to.

It is a model for people who build a real platform, of its two routes and of the life of a request. In tests
it can also give wrong answers on purpose, which it calls lies. It keeps everything in memory and trusts
everyone who can reach its page. Run it with `python -m reference_platform`; read `registry`, `server`, `lies`
next.
"""
