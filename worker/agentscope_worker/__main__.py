"""`python -m agentscope_worker`: started by the supervisor, not by people."""

from agentscope_worker.main import main

main()
