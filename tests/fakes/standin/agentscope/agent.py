"""The class that the worker adapts; a test that replies with an agent needs the real one."""


class Agent:
    def __init__(self) -> None:
        raise NotImplementedError("the stand-in has no agents: mark the test `agentscope`")
