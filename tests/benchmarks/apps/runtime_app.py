"""The same turns in agentscope-runtime's AgentApp, as its documentation has it.

It is given the whole text so far and sends what is new, in a protocol of its own at /process.
"""

import os
from typing import Any

from agentscope.message import Msg
from agentscope_runtime.engine import AgentApp
from turns import message, say, turn

app = AgentApp(app_name="benchmark", app_description="turns")


# Its result is not annotated: FastAPI would take the annotation for a model of the response.
@app.query(framework="agentscope")
async def query(self: Any, msgs: list[Msg], request: Any = None, **_: Any):
    whole, text = message(""), ""
    async for each in turn(msgs[-1]):
        text += each.get_text_content() or ""
        say(whole, text)
        yield whole, False
    yield whole, True


@app.get("/health")
async def health() -> dict[str, Any]:
    return {"status": "healthy", "pid": os.getpid()}
