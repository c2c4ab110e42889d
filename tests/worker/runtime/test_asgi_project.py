"""Projects with an ASGI app: how it is found, what ends app.py, and its lifespan."""

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentscope_protocol.config.settings import Settings
from agentscope_worker.loop_runner import LoopRunner
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.asgi_app import AsgiApp
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.loading import find_app, load_app

pytestmark = pytest.mark.agentscope

Write = Callable[..., Path]

PLAIN = """
    class Api:
        def __init__(self, name):
            self.name = name
        async def __call__(self, scope, receive, send): ...

    """


@pytest.fixture(autouse=True)
def fresh_modules() -> Iterator[None]:
    """Modules of the projects are imported anew by each test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not getattr(sys.modules[name], "__file__", None) or "site-packages" not in str(sys.modules[name]):
            sys.modules.pop(name)


def hosted(project: Path, name: str | None = None) -> Any:
    app = load_app(project, name)
    assert isinstance(app, AsgiApp)
    return app


def failure(project: Path, name: str | None = None) -> str:
    with pytest.raises(BootError) as raised:
        load_app(project, name)
    assert raised.value.permanent
    return raised.value.message


ENDINGS = {
    "run": "import uvicorn\nuvicorn.run(service, port=8000)",
    "run, from main": "from uvicorn.main import run\nrun(app=service)",
    "run, by name": "from uvicorn import run\nrun('app:service', reload=True)",
    "run, by name in another module": "import uvicorn\nuvicorn.run('beside_app:service')",
    "run, a factory": "import uvicorn\ndef make():\n    return service\nuvicorn.run(make, factory=True)",
    "Server.run": "import uvicorn\nuvicorn.Server(uvicorn.Config(service)).run()",
    "Server.serve": (
        "import asyncio\nimport uvicorn\nasync def main():\n    await asyncio.sleep(0)\n"
        "    await uvicorn.Server(uvicorn.Config(service)).serve()\nasyncio.run(main())"
    ),
    "Server.serve in a task group": (
        "import asyncio\nimport uvicorn\nasync def main():\n    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(serve())\nasync def serve():\n"
        "    await uvicorn.Server(uvicorn.Config(service)).serve()\nasyncio.run(main())"
    ),
    "hypercorn": (
        "import asyncio\nfrom hypercorn.asyncio import serve\nfrom hypercorn.config import Config\n"
        "asyncio.run(serve(service, Config()))"
    ),
    "in a main that catches errors": (
        "import uvicorn\ntry:\n    uvicorn.run(service)\nexcept Exception:\n    service = None"
    ),
    "as a script": "if __name__ == '__main__':\n    import uvicorn\n    uvicorn.run(service)",
    "made by the script": (
        "if __name__ == '__main__':\n    import uvicorn\n    del other\n    uvicorn.run(Api('service'))"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_call_that_starts_a_server_names_the_app(write_project: Write, ending: str) -> None:
    source = textwrap.dedent(PLAIN) + "service = Api('service')\nother = Api('other')\n" + ending
    if "Api('service'))" in ending:
        source = source.replace("service = Api('service')\nother = Api('other')\n", "other = 3\n")
    if ending.startswith("if __name__"):
        source = source.replace("other = Api('other')\n", "other = 3\n")
    project = write_project(source)
    (project / "beside_app.py").write_text(textwrap.dedent(PLAIN) + "service = Api('service')")
    assert hosted(project).app.name == "service"


AGENT_APP = """
class LocalDeployManager: ...
class AgentApp:
    def __init__(self, name):
        self.name = name
    async def __call__(self, scope, receive, send): ...
    def run(self, host, port):
        raise AssertionError("it starts")
    async def deploy(self, deployer, **options):
        return type(deployer).__name__
"""
AGENT_APP_ENDINGS = {
    "run": "other = AgentApp('other')\nservice.run(host='0.0.0.0', port=8080)",
    "deploy": (
        "import asyncio\nother = AgentApp('other')\n"
        "async def main():\n    await service.deploy(LocalDeployManager())\nasyncio.run(main())"
    ),
    "deploy elsewhere": "import asyncio\nassert asyncio.run(service.deploy(object())) == 'object'",
}


@pytest.mark.parametrize("ending", AGENT_APP_ENDINGS.values(), ids=AGENT_APP_ENDINGS.keys())
def test_an_agent_app_of_agentscope_runtime_is_found(
    write_project: Write, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package."""
    monkeypatch.setenv("AGENTSCOPE_RUNTIME", "package")
    for name in [each for each in sys.modules if each.partition(".")[0] == "agentscope_runtime"]:
        monkeypatch.delitem(sys.modules, name)  # those of our own, from other tests
    package = "agentscope_runtime.engine.app.agent_app"
    project = write_project(
        f"from {package} import AgentApp, LocalDeployManager\nservice = AgentApp('service')\n{ending}"
    )
    module = project.joinpath(*package.split(".")).with_suffix(".py")
    module.parent.mkdir(parents=True)
    module.write_text(AGENT_APP)
    app = hosted(project)
    assert (app.app.name, app.kind) == ("service", "agentapp")


def test_other_servers_are_started_as_usual(write_project: Write) -> None:
    """Only the import itself is intercepted: neither its threads, nor what runs later."""
    project = write_project(
        PLAIN
        + """
    import threading
    import uvicorn
    from uvicorn import run

    result = []

    def serve():
        try:
            run("no_such_module:app", log_config=None)
        except SystemExit as error:  # uvicorn itself cannot import it
            result.append(error.code)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    app = Api("service")
    """
    )
    hosted(project)
    module: Any = sys.modules["app"]
    module.serve()
    assert len(module.result) == 2
    import uvicorn

    assert not hasattr(uvicorn.run, "__wrapped__")
    assert not hasattr(uvicorn.Server.serve, "__wrapped__")


def test_a_file_that_runs_loops_is_imported_outside_of_the_loop(write_project: Write) -> None:
    project = write_project(
        PLAIN
        + """
    import asyncio
    asyncio.run(asyncio.sleep(0))
    app = Api("service")
    """
    )

    async def boot(outside: Any) -> str:
        await runtime.start(Settings(), project, outside=outside)
        name: str = runtime.app.name
        await runtime.shutdown()
        return name

    with asyncio.Runner() as runner:
        pausing = LoopRunner(runner)
        assert pausing.run(boot(pausing.outside)) == "service"


def test_a_file_that_needs_a_running_loop_gets_one(write_project: Write) -> None:
    project = write_project(
        PLAIN
        + """
    import asyncio
    loop = asyncio.get_running_loop()
    app = Api("service")
    """
    )

    async def boot(outside: Any) -> bool:
        await runtime.start(Settings(), project, outside=outside)
        module: Any = sys.modules["app"]
        await runtime.shutdown()
        return module.loop is asyncio.get_running_loop()

    with asyncio.Runner() as runner:
        pausing = LoopRunner(runner)
        assert pausing.run(boot(pausing.outside))


def test_a_file_may_use_the_current_loop(write_project: Write) -> None:
    project = write_project(
        PLAIN
        + """
    import asyncio
    loop = asyncio.get_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    app = Api("service")
    """
    )

    async def boot(outside: Any) -> bool:
        await runtime.start(Settings(), project, outside=outside)
        module: Any = sys.modules["app"]
        await runtime.shutdown()
        return module.loop is asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        pausing = LoopRunner(runner)
        assert pausing.run(boot(pausing.outside))
        asyncio.set_event_loop(None)


class TestNamed:
    """`app: module:name` in agentapp.yaml."""

    @pytest.mark.parametrize(
        "name, expected",
        [
            ("app:second", "second"),
            ("service.main:app", "in a package"),
            ("service.main:holder.app", "held"),
            ("service.main:create", "made"),
            ("script:anything", "served"),
        ],
    )
    def test_it_names_the_app(self, write_project: Write, name: str, expected: str) -> None:
        project = write_project(PLAIN + "\n    app, second = Api('first'), Api('second')\n")
        self.beside(project)
        assert hosted(project, name).app.name == expected
        assert hosted(project, name).name == name

    def test_app_py_need_not_exist(self, write_project: Write) -> None:
        project = write_project()
        self.beside(project)
        (project / "app.py").unlink()
        assert hosted(project, "service.main:app").app.name == "in a package"

    def test_it_names_an_app_class(self, write_project: Write) -> None:
        app = load_app(write_project(), "app:App")
        assert type(app).__name__ == "App"

    @pytest.mark.parametrize(
        "name, said",
        [
            ("no_such_module:app", "importing no_such_module raised ModuleNotFoundError"),
            ("app:missing", "app: app:missing in agentapp.yaml: app has no name missing"),
            ("app:holder.missing", "app has no name holder.missing"),
            ("app:number", "it is a int object, and no ASGI app"),
            ("app:broken", "broken() raised ValueError: no\n"),
        ],
    )
    def test_what_it_cannot_name_is_reported(self, write_project: Write, name: str, said: str) -> None:
        source = "number = 3\nclass holder: ...\ndef broken():\n    raise ValueError('no')\n"
        assert said in failure(write_project(source), name)

    def beside(self, project: Path) -> None:
        (project / "service").mkdir()
        source = textwrap.dedent(PLAIN) + (
            "app = Api('in a package')\nclass holder:\n    app = Api('held')\n"
            "def create():\n    return Api('made')\n"
        )
        (project / "service" / "main.py").write_text(source)
        script = textwrap.dedent(PLAIN) + "import uvicorn\nuvicorn.run(Api('served'))\n"
        (project / "script.py").write_text(script)


def test_a_name_that_a_server_cannot_find_is_reported(write_project: Write) -> None:
    project = write_project("import uvicorn\nuvicorn.run('app:missing')")
    assert "it starts a server with 'app:missing', and there is no such name" in failure(project)


def test_a_server_of_another_kind_is_reported(write_project: Write) -> None:
    project = write_project("from aiohttp import web\nweb.run_app(web.Application())")
    assert "an app of aiohttp's own server, which is no ASGI app" in failure(project)


class TestLifespan:
    @pytest.fixture(autouse=True)
    async def stopped(self) -> AsyncIterator[None]:
        yield
        await runtime.shutdown()

    async def started(self, write_project: Write, body: str, worker: str = "0.0") -> Any:
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        source = f"log = []\nasync def app(scope, receive, send):\n{indented}"
        await runtime.start(Settings(), write_project(source), worker=worker)
        return sys.modules["app"]

    async def test_it_runs_once_around_everything(self, write_project: Write) -> None:
        module = await self.started(
            write_project,
            """
            from agentscope.runtime import runtime
            assert scope["type"] == "lifespan"
            log.append((await receive())["type"])
            log.append(sorted(scope["state"].items()))
            scope["state"]["pool"] = len(runtime.models)
            await send({"type": "lifespan.startup.complete"})
            log.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})
            """,
            worker="3.7",
        )
        assert isinstance(runtime.hosted, AsgiApp)
        assert runtime.app is module.app
        assert runtime.hosted.state == {"worker_slot": 3, "pool": 0}
        await runtime.shutdown()
        assert module.log == ["lifespan.startup", [("worker_slot", 3)], "lifespan.shutdown"]

    @pytest.mark.parametrize("body", ["assert scope['type'] == 'http'", "return", "await receive()"])
    async def test_an_app_without_it_is_hosted_too(self, write_project: Write, body: str) -> None:
        await self.started(write_project, body)
        await runtime.shutdown()

    @pytest.mark.parametrize(
        "body, said",
        [
            (
                "await send({'type': 'lifespan.startup.failed'})\nraise ValueError('no database')",
                "app.py, line 4: the startup of app raised ValueError: no database\n",
            ),
            (
                "await send({'type': 'lifespan.startup.failed', 'message': 'no database'})",
                "the startup of app raised RuntimeError: no database\n",
            ),
            (
                "await send({'type': 'lifespan.startup.failed'})\nraise SystemExit(3)",
                "the startup of app raised RuntimeError: the app raised SystemExit(3)\n",
            ),
        ],
    )
    async def test_a_failed_startup_is_a_boot_error(self, write_project: Write, body: str, said: str) -> None:
        with pytest.raises(BootError) as raised:
            await self.started(write_project, body)
        assert said in raised.value.message
        assert not raised.value.permanent

    @pytest.mark.parametrize(
        "body, error",
        [
            ("raise ValueError('no')", ValueError),
            ("await send({'type': 'lifespan.shutdown.failed', 'message': 'no'})", RuntimeError),
        ],
    )
    async def test_a_failed_shutdown_is_raised(
        self, write_project: Write, body: str, error: type[Exception]
    ) -> None:
        start = "await receive()\nawait send({'type': 'lifespan.startup.complete'})\nawait receive()\n"
        await self.started(write_project, start + body)
        with pytest.raises(error, match="no"):
            await runtime.shutdown()

    async def test_a_lifespan_that_has_ended_by_itself_needs_no_shutdown(self, write_project: Write) -> None:
        await self.started(write_project, "await send({'type': 'lifespan.startup.complete'})")
        await asyncio.sleep(0)
        await runtime.shutdown()


def test_nothing_is_created_before_the_loop_runs(write_project: Write) -> None:
    """`App()` may need a running loop; the import of its class does not."""
    project = write_project(
        """
        import asyncio
        from agentscope.runtime import AgentApp

        class App(AgentApp):
            def __init__(self):
                self.loop = asyncio.get_running_loop()
            async def __call__(self, msg, ctx):
                yield msg
        """
    )
    assert find_app(project).name == "App"
