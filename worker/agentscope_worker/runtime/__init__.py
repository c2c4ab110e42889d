"""What an author's project imports: the runtime singleton, the App's base class and the context.

This package owns everything between a project and AgentScope, for 1.x and 2.x alike. Importing it
must stay cheap: it never imports agentscope, so that tests and type checkers pay nothing for it.
Read `singleton` next for the order of a start, and `compat.majors` for how one code base serves two
majors of AgentScope.
"""

from agentscope_worker.runtime.application import AgentApp, SessionContext
from agentscope_worker.runtime.singleton import Runtime, runtime

__all__ = ["AgentApp", "Runtime", "SessionContext", "runtime"]
