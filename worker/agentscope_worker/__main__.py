"""`python -m agentscope_worker`: the supervisor's entry point; not meant to be run by hand."""

from agentscope_worker.main import main

main()
