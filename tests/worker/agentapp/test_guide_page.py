"""The page of the user guide on AgentApp: each snippet, character by character.

Names that a snippet leaves open (`agent`, `...`) come from the namespace it runs in. The complete example
runs on AgentScope 1.x; its port to 2.x is in `examples/agentapp`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from agentscope_runtime.engine import AgentApp

from tests.fakes.model_server import ModelServer
from tests.worker.agentapp.clients import Stream, eventually, running
from tests.worker.agentapp.scenarios import events, request
from tests.worker.agents import MAJOR
from tests.worker.conftest import openai

EXAMPLES: Final = Path(__file__).parents[3] / "examples"
only_1x = pytest.mark.skipif(MAJOR != 1, reason="names ReActAgent, which 2.x does not have")
only_2x = pytest.mark.skipif(MAJOR != 2, reason="names Agent, which 1.x does not have")

STOP: Final = {"input": [], "session_id": "ss-123", "user_id": "uu-123"}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of `run`, which returns at once."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(AgentApp, "run", lambda self, **options: calls.append({"app": self, **options}))
    return calls


def run(snippet: str, **names: Any) -> Any:
    """The names of a snippet after it has run."""
    # Handlers look up the names of their module.
    namespace: dict[str, Any] = {"__name__": "app", **names}
    exec(compile(snippet, "app.py", "exec"), namespace)
    return namespace


MINIMAL = """
from agentscope_runtime.engine import AgentApp

agent_app = AgentApp(
    app_name="Friday",
    app_description="A helpful assistant",
)

agent_app.run(host="127.0.0.1", port=8090)
"""

A2A = """
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.deployers.adapter.a2a import (
    AgentCardWithRuntimeConfig,
)

agent_app = AgentApp(
    app_name="MyAgent",
    app_description="My agent description",
    a2a_config=AgentCardWithRuntimeConfig(
        agent_card={
            "name": "MyAgent",
            "description": "My agent description",
            "skills": [...],  # Agent 技能列表
            "default_input_modes": ["text"],
            "default_output_modes": ["text"],
            # ... 其他协议字段
        },
        registry=[...],  # 服务注册与发现
        task_timeout=120,  # 任务超时设置
        # ... 其他配置字段
    ),
)
"""

HOOKS = """
async def init_resources(app, **kwargs):
    print("🚀 服务启动中,初始化资源...")

async def cleanup_resources(app, **kwargs):
    print("🛑 服务即将关闭,释放资源...")

app = AgentApp(
    agent=agent,
    before_start=init_resources,
    after_finish=cleanup_resources
)
"""

LIFESPAN = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from agentscope.session import RedisSession
from agentscope_runtime.engine import AgentApp

@asynccontextmanager
async def lifespan(app: FastAPI):
    # 启动阶段
    import fakeredis

    fake_redis = fakeredis.aioredis.FakeRedis(
        decode_responses=True
    )
    # 注意:这个 FakeRedis 实例仅用于开发/测试。
    # 在生产环境中,请替换为你自己的 Redis 客户端/连接
    #(例如 aioredis.Redis)。
    app.state.session = RedisSession(
        connection_pool=fake_redis.connection_pool
    )
    print("✅ 服务初始化完成")
    try:
        # yield 将程序控制权交给 AgentApp
        yield
    finally:
        # 清理阶段
        print("✅ 资源已清理")

# 将定义好的 lifespan 传入 AgentApp
app = AgentApp(
    app_name="Friday",
    app_description="A helpful assistant",
    lifespan=lifespan,
)
"""

TASK = """
app = AgentApp(
    agent=agent,
    broker_url="redis://localhost:6379/0",
    backend_url="redis://localhost:6379/0"
)

@app.task("/longjob", queue="celery")
def heavy_computation(data):
    return {"result": data["x"] ** 2}
"""

QUERY = """
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.schemas.agent_schemas import AgentRequest
from agentscope.agent import ReActAgent
from agentscope.model import DashScopeChatModel
from agentscope.pipeline import stream_printing_messages
from agentscope.memory import InMemoryMemory

app = AgentApp(
    app_name="Friday",
    app_description="A helpful assistant",
    lifespan=lifespan,
)

@app.query(framework="agentscope")
async def query_func(
    self,
    msgs,
    request: AgentRequest = None,
    **kwargs,
):
    session_id = request.session_id
    user_id = request.user_id

    toolkit = Toolkit()
    toolkit.register_tool_function(execute_python_code)

    agent = ReActAgent(
        name="Friday",
        model=DashScopeChatModel(
            "qwen-turbo",
            api_key=os.getenv("DASHSCOPE_API_KEY"),
            stream=True,
        ),
        sys_prompt="You're a helpful assistant named Friday.",
        toolkit=toolkit,
        memory=InMemoryMemory(),
        formatter=DashScopeChatFormatter(),
    )
    agent.set_console_output_enabled(enabled=False)

    await app.state.session.load_session_state(
        session_id=session_id,
        user_id=user_id,
        agent=agent,
    )

    async for msg, last in stream_printing_messages(
        agents=[agent],
        coroutine_task=agent(msgs),
    ):
        yield msg, last

    await app.state.session.save_session_state(
        session_id=session_id,
        user_id=user_id,
        agent=agent,
    )
"""

NATIVE = '''
app = AgentApp()

@app.get("/info")
async def get_info():
    """使用原生 FastAPI 定义的接口"""
    return {
        "app name": app.app_name,
        "app description": app.app_description,
        "custom_metadata": "v1.0.0"
    }

@app.post("/update_config")
async def update_config(data: dict):
    """标准的 POST 请求处理"""
    # 你的业务逻辑
    return {"status": "updated"}
'''

ENDPOINT = """
app = AgentApp()

@app.endpoint("/hello")
def hello_endpoint():
    return {"msg": "Hello world"}

@app.endpoint("/stream_numbers")
async def stream_numbers():
    for i in range(5):
        yield f"number: {i}\\n"
"""

INTERRUPTS = """
app = AgentApp(
    app_name="InterruptibleAgent",
    # 开启分布式中断支持
    interrupt_redis_url="redis://localhost" ,
)
"""

DEPLOY = """
from agentscope_runtime.engine.deployers import LocalDeployManager

await app.deploy(LocalDeployManager(host="0.0.0.0", port=8091))
"""

HANDLER = """
@agent_app.query(framework="agentscope")
async def query_func(
    self,
    msgs,
    request: AgentRequest = None,
    **kwargs
):
    # 准备 Agent
    agent = ReActAgent(name="Friday", ...)

    # 尝试恢复历史状态,适用于中断恢复时的状态恢复等场景
    await agent_app.state.session.load_session_state(
        session_id=session_id,
        user_id=user_id,
        agent=agent,
    )

    try:
        # AgentApp 会在此生成器外层注入中断监听逻辑
        # 当调用 AgentApp 的 stop_chat 方法触发中断时,此处会抛出 CancelledError 异常
        async for msg, last in stream_printing_messages(...):
            yield msg, last

    except asyncio.CancelledError:
        # 核心逻辑:响应中断信号
        print(f"检测到任务 {request.session_id} 被手动中断")

        # 重要:手动停止底层 Agent 任务的执行
        await agent.interrupt()

        # 必须重新抛出异常,让系统将任务状态标记为 STOPPED
        raise

    finally:
        # 无论是任务是被手动中断还是正常执行结束,均保存 agent 状态,以便下次恢复
        await agent_app.state.session.save_session_state(
            session_id=session_id,
            user_id=user_id,
            agent=agent,
        )
"""

STOP_ROUTE = """
@agent_app.post("/stop")
async def stop_task(request: AgentRequest):
    # 发送中断信号给指定的 user_id 和 session_id
    await agent_app.stop_chat(
        user_id=request.user_id,
        session_id=request.session_id
    )
    return {"status": "ok"}
"""

COMPLETE = """
import asyncio
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from agentscope.agent import ReActAgent
from agentscope.model import DashScopeChatModel
from agentscope.formatter import DashScopeChatFormatter
from agentscope.tool import Toolkit, execute_python_code
from agentscope.pipeline import stream_printing_messages
from agentscope.memory import InMemoryMemory
from agentscope.session import RedisSession

from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.schemas.agent_schemas import AgentRequest

# 1. 定义生命周期
@asynccontextmanager
async def lifespan(app: FastAPI):
    import fakeredis

    fake_redis = fakeredis.aioredis.FakeRedis(
        decode_responses=True
    )
    # 注意:这个 FakeRedis 实例仅用于开发/测试。
    # 在生产环境中,请替换为你自己的 Redis 客户端/连接
    #(例如 aioredis.Redis)。
    app.state.session = RedisSession(
        connection_pool=fake_redis.connection_pool
    )
    try:
        yield
    finally:
        print("AgentApp is shutting down...")

# 2. 创建 AgentApp
agent_app = AgentApp(
    app_name="Friday",
    app_description="A helpful assistant",
    lifespan=lifespan,

    # 注意: 由于'interrupt_redis_url'和'interrupt_backend'
    # 均未被传入,当前采用的是本地中断后端。
    # 为了支持分布式中断,你可以添加如下配置:
    # interrupt_redis_url="redis://localhost",
)

# 3. 定义请求处理逻辑
@agent_app.query(framework="agentscope")
async def query_func(
    self,
    msgs,
    request: AgentRequest = None,
    **kwargs,
):
    session_id = request.session_id
    user_id = request.user_id

    toolkit = Toolkit()
    toolkit.register_tool_function(execute_python_code)

    agent = ReActAgent(
        name="Friday",
        model=DashScopeChatModel(
            "qwen-turbo",
            api_key=os.getenv("DASHSCOPE_API_KEY"),
            stream=True,
        ),
        sys_prompt="You're a helpful assistant named Friday.",
        toolkit=toolkit,
        memory=InMemoryMemory(),
        formatter=DashScopeChatFormatter(),
    )
    agent.set_console_output_enabled(enabled=True)

    # 加载 agent 状态
    await agent_app.state.session.load_session_state(
        session_id=session_id,
        user_id=user_id,
        agent=agent,
    )

    try:
        async for msg, last in stream_printing_messages(
            agents=[agent],
            coroutine_task=agent(msgs),
        ):
            yield msg, last

    except asyncio.CancelledError:
        # 中断处理逻辑
        print(f"Task {session_id} was manually interrupted.")

        # 为彻底停止底层 agent 的运行,此处须手动中断 agent
        await agent.interrupt()

        # 重新抛出异常,让系统将任务状态标记为 STOPPED
        raise

    finally:
        # 保存 agent 状态
        await agent_app.state.session.save_session_state(
            session_id=session_id,
            user_id=user_id,
            agent=agent,
        )

# 4. 注册中断触发路由
@agent_app.post("/stop")
async def stop_task(request: AgentRequest):
    await agent_app.stop_chat(
        user_id=request.user_id,
        session_id=request.session_id,
    )
    return {
        "status": "success",
        "message": "Interrupt signal broadcasted.",
    }

# 5. 启动应用
agent_app.run(host="127.0.0.1", port=8090)
"""


async def test_the_minimal_app_has_the_routes_of_health(served: list[dict[str, Any]]) -> None:
    app = run(MINIMAL)["agent_app"]
    assert served == [{"app": app, "host": "127.0.0.1", "port": 8090}]
    async with running(app) as client:
        for path in ("/", "/health", "/readiness", "/liveness"):
            assert (await client.get(path)).status_code == 200
        assert (await client.post("/process", json={})).status_code == 404


def test_the_card_is_configured() -> None:
    config = run(A2A.replace("registry=[...],", ""))["agent_app"].a2a_config
    assert (config.agent_card["name"], config.task_timeout) == ("MyAgent", 120)


async def test_hooks_as_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    app = run(HOOKS, AgentApp=AgentApp, agent=None)["app"]
    async with running(app):
        assert "初始化资源" in capsys.readouterr().out
    assert "释放资源" in capsys.readouterr().out


@only_1x
async def test_lifespan(capsys: pytest.CaptureFixture[str]) -> None:
    app = run(LIFESPAN)["app"]
    async with running(app):
        assert type(app.state.session).__name__ == "RedisSession"
        assert capsys.readouterr().out == "✅ 服务初始化完成\n"
    assert capsys.readouterr().out == "✅ 资源已清理\n"


async def test_a_task(caplog: pytest.LogCaptureFixture) -> None:
    app = run(TASK, AgentApp=AgentApp, agent=None)["app"]
    assert "tasks run in this process" in caplog.text
    async with running(app) as client:
        task_id = (await client.post("/longjob", json={"x": 5})).json()["task_id"]
        state: dict[str, Any] = {}

        async def has_ended() -> bool:
            state.update((await client.get(f"/longjob/{task_id}")).json())
            return state["status"] == "finished"

        await eventually(has_ended)
    assert state["result"] == {"result": 25}


async def test_native_routes() -> None:
    async with running(run(NATIVE, AgentApp=AgentApp)["app"]) as client:
        assert (await client.get("/info")).json() == {
            "app name": "AgentScope Runtime API",
            "app description": "",
            "custom_metadata": "v1.0.0",
        }
        body = {"config_key": "max_tokens", "value": 512}
        assert (await client.post("/update_config", json=body)).json() == {"status": "updated"}


async def test_endpoints() -> None:
    async with running(run(ENDPOINT, AgentApp=AgentApp)["app"]) as client:
        assert (await client.post("/hello")).json() == {"msg": "Hello world"}
        stream = await client.post("/stream_numbers")
        assert events(stream.text) == [f"number: {i}\n" for i in range(5)]


def test_interrupts_on_redis_are_configured() -> None:
    app = run(INTERRUPTS, AgentApp=AgentApp)["app"]
    assert type(app._interrupt_backend).__name__ == "RedisInterruptBackend"


async def test_deploy_starts_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentscope_worker.agentapp import serving

    started: list[tuple[str, int]] = []

    class Deployed:
        url = "http://127.0.0.1:8091"

        def __init__(self, address: str, port: int) -> None:
            started.append((address, port))

        def stop_with_this_process(self) -> None: ...

        async def ready(self, within: float) -> None: ...

        async def stop(self, within: float) -> None:
            started.append(("stopped", 0))

    monkeypatch.setattr(serving, "Deployed", Deployed)
    lines = [f"    {line}" if line else "" for line in DEPLOY.splitlines()]
    deploy = run("async def deploy(app):" + "\n".join(lines))["deploy"]
    await deploy(AgentApp())
    assert started == [("0.0.0.0", 8091)]
    from agentscope_runtime.engine.deployers import LocalDeployManager

    manager = LocalDeployManager(port=8091)
    deployed = await AgentApp().deploy(manager)
    assert deployed == {"deploy_id": manager.deploy_id, "url": "http://127.0.0.1:8091"}
    assert (await manager.stop(manager.deploy_id))["success"]
    assert not (await manager.stop(manager.deploy_id))["success"]


def of_dashscope(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import dashscope

    monkeypatch.setattr(dashscope, "base_http_api_url", server.url("dashscope", 1))
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")


def text_of(stream: list[dict[str, Any]]) -> str:
    return "".join(
        content["text"]
        for message in stream[-1]["output"]
        if message["type"] == "message"
        for content in message["content"]
    )


@only_1x
async def test_a_query_handler_with_sessions(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    of_dashscope(server, monkeypatch)
    imports = """
import os
from agentscope.formatter import DashScopeChatFormatter
from agentscope.tool import Toolkit, execute_python_code
"""
    names = run(LIFESPAN + imports + QUERY)
    async with running(names["app"]) as client:
        for text in ("one", "two"):
            answer = events((await client.post("/process", json=request(text))).text)
            assert text_of(answer) == f"Echo: {text}"
    roles = [each["role"] for each in server.requests[-1].body["input"]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]  # the state of the first request was restored


async def stopped(app: Any, client: Any, text: str) -> list[dict[str, Any]]:
    """The end of the stream of a slow answer that the route /stop ends."""
    body = {**request(text), "session_id": "ss-123", "user_id": "uu-123"}
    async with Stream(app, body) as stream:
        await stream.until("in_progress", "content")
        reading = asyncio.create_task(stream.rest())
        answer = await client.post("/stop", json=STOP)
        assert answer.json() == {"status": "success", "message": "Interrupt signal broadcasted."}
        return await reading


@only_1x
async def test_the_complete_example(
    server: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
    served: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_dashscope(server, monkeypatch)
    app = run(COMPLETE)["agent_app"]
    assert served == [{"app": app, "host": "127.0.0.1", "port": 8090}]
    async with running(app) as client:
        rest = await stopped(app, client, "delay 0.05 " + "word " * 100)
        assert [each["status"] for each in rest if each["object"] == "response"] == ["canceled"]
        assert "Task ss-123 was manually interrupted." in capsys.readouterr().out
        body = {**request("again"), "session_id": "ss-123", "user_id": "uu-123"}
        answer = events((await client.post("/process", json=body)).text)
        assert text_of(answer) == "Echo: again"
    roles = [each["role"] for each in server.requests[-1].body["input"]["messages"]]
    assert roles[:2] == ["system", "user"]
    assert roles[-1] == "user"
    assert len(roles) > 2  # the state of the interrupted request was saved


@only_1x
async def test_the_example_for_1x_is_the_complete_example() -> None:
    """`examples/agentapp_v1` differs from the page only in its comments and line breaks."""
    import ast

    example = ast.parse((EXAMPLES / "agentapp_v1" / "app.py").read_text("utf-8"))
    del example.body[0]  # its docstring
    page = ast.parse(COMPLETE)
    imports = [[ast.dump(each) for each in tree.body if _is_import(each)] for tree in (example, page)]
    assert sorted(imports[0]) == sorted(imports[1])
    others = [[ast.dump(each) for each in tree.body if not _is_import(each)] for tree in (example, page)]
    assert others[0] == others[1]


def _is_import(node: Any) -> bool:
    return type(node).__name__ in ("Import", "ImportFrom")


@only_2x
async def test_the_complete_example_on_2x(
    start: Callable[..., Any],
    server: ModelServer,
    served: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = await start(models={"main": openai(server)})
    app = run((EXAMPLES / "agentapp" / "app.py").read_text("utf-8"))["agent_app"]
    assert served == [{"app": app, "host": "127.0.0.1", "port": 8090}]
    async with running(app) as client:
        rest = await stopped(app, client, "delay 0.05 " + "word " * 100)
        assert [each["status"] for each in rest if each["object"] == "response"] == ["canceled"]
        body = {**request("again"), "session_id": "ss-123", "user_id": "uu-123"}
        answer = events((await client.post("/process", json=body)).text)
        assert text_of(answer) == "Echo: again"
        assert answer[-1]["usage"]["output_tokens"] > 0
    roles = [each["role"] for each in server.requests[-1].body["messages"]]
    assert roles[:2] == ["system", "user"]
    assert "assistant" in roles  # the partial answer of the interrupted request was saved
    assert roles[-1] == "user"
    assert list((project / "sessions").iterdir())


HANDLER_NAMES: Final = """
import asyncio
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.schemas.agent_schemas import AgentRequest
agent_app = AgentApp()
session_id, user_id = "s", "u"
"""


async def test_the_handler_that_sees_its_interruption() -> None:
    """The snippet leaves out what the agent is; here it says one word, and waits."""
    notes: list[str] = []

    class ReActAgent:
        def __init__(self, *_: Any, name: str) -> None: ...

        async def interrupt(self) -> None:
            notes.append("interrupt")

    class Session:
        async def load_session_state(self, **_: Any) -> None:
            notes.append("load")

        async def save_session_state(self, **_: Any) -> None:
            notes.append("save")

    async def stream_printing_messages(*_: Any) -> AsyncIterator[Any]:
        from tests.worker.agentapp.scenarios import _growing, _text

        yield next(_growing([_text("one")], []))
        await asyncio.Event().wait()

    names = {"ReActAgent": ReActAgent, "stream_printing_messages": stream_printing_messages}
    # The page writes `name="Friday", ...`, which is no Python.
    handler = HANDLER.replace('name="Friday", ...', '..., name="Friday"')
    app = run(HANDLER_NAMES + handler + "\n" + STOP_ROUTE, **names)["agent_app"]
    app.state.session = Session()
    async with running(app) as client, Stream(app) as stream:
        await stream.until("in_progress", "content")
        body = {"input": [], "session_id": "s", "user_id": "u"}
        assert (await client.post("/stop", json=body)).json() == {"status": "ok"}
        assert (await stream.rest())[-1]["status"] == "canceled"
    assert notes == ["load", "interrupt", "save"]
