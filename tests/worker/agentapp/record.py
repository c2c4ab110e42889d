"""Records the answers of agentscope-runtime to the scenarios, in `recorded/`.

python -m venv real
real/bin/pip install agentscope-runtime==1.1.6.post2 "agentscope<2" "mcp<2" greenlet tqdm langgraph agno
real/bin/python tests/worker/agentapp/record.py
"""

import asyncio
import json
from pathlib import Path

import httpx
import scenarios
from agentscope_runtime.engine import AgentApp

RECORDED = Path(__file__).parent / "recorded"


async def main() -> None:
    for name, scenario in scenarios.SCENARIOS.items():
        app = AgentApp(app_name="Friday", app_description="A helpful assistant")
        scenario.handler.__annotations__.pop("return", None)  # agentscope-runtime fails with one
        app.query(framework=scenario.framework)(scenario.handler)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            answer = await client.post("/process", json=scenario.body)
        lines = [json.dumps(each, ensure_ascii=False) for each in scenarios.normalised(answer.text)]
        (RECORDED / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
