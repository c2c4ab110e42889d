"""The scripted App, with the hook for sessions that leave its process.

What it is told of is written down in `left.jsonl` in the project folder; `leaving` in the metadata of the
session's last turn has the steps that it does then.
"""

import asyncio

import scripted
from agentscope.runtime import SessionContext


class App(scripted.App):
    async def on_session_idle(self, ctx: SessionContext) -> None:
        what = {"session": ctx.session_id, "metadata": ctx.metadata}
        scripted.note("left.jsonl", word="begin", **what)
        word = "end"
        try:
            for step in ctx.metadata.get("leaving", []):
                async for _ in scripted.perform(step, scripted.message(""), ctx):
                    pass
        except asyncio.CancelledError:
            word = "cancelled"
            raise
        finally:
            scripted.note("left.jsonl", word=word, **what)
