"""AgentScope's two majors behind one interface: the only code that names their classes.

Read `majors` first: it has the interface and chooses the major that is installed.
"""
