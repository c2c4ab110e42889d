"""Loading app.py: every error names the file, the line and the expected code."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from agentscope_worker.runtime.application import AgentApp
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.loading import load_app
from tests.worker.agents import MAJOR

pytestmark = pytest.mark.agentscope

Write = Callable[..., Path]


def failure(project: Path) -> str:
    with pytest.raises(BootError) as raised:
        load_app(project)
    assert raised.value.permanent
    return raised.value.message


def test_an_app_is_loaded(write_project: Write) -> None:
    project = write_project()
    app = load_app(project)
    assert isinstance(app, AgentApp)
    assert type(app).__module__ == "app"
    assert sys.path[0] == str(project)


def test_modules_beside_app_py_are_found(write_project: Write) -> None:
    project = write_project(
        """
        from agentscope.runtime import AgentApp
        from beside_app_py import ANSWER

        class App(AgentApp):
            answer = ANSWER
            async def __call__(self, msg, ctx):
                yield msg
        """
    )
    (project / "beside_app_py.py").write_text("ANSWER = 42\n")
    assert load_app(project).answer == 42  # type: ignore[attr-defined]


def test_a_missing_app_py_is_reported(tmp_path: Path) -> None:
    assert failure(tmp_path).startswith(f"{tmp_path}/app.py does not exist; app.py must define class App")


def test_a_syntax_error_is_reported_with_its_line(write_project: Write) -> None:
    project = write_project("x = 1\ndef broken(:\n")
    message = failure(project)
    assert message.startswith(f"{project}/app.py, line 2: SyntaxError:")
    assert "def broken(:" in message


def test_a_syntax_error_in_another_file_is_reported_there(write_project: Write) -> None:
    project = write_project("import broken_beside_app\n")
    (project / "broken_beside_app.py").write_text("\n\nx = = 1\n")
    assert f"{project}/broken_beside_app.py, line 3: SyntaxError" in failure(project)


def test_an_error_at_import_shows_the_authors_frames_only(write_project: Write) -> None:
    project = write_project(
        """
        import json

        def configured():
            return json.loads("{")

        configured()
        """
    )
    message = failure(project)
    assert message.startswith(f"{project}/app.py, line 5: importing app.py raised JSONDecodeError")
    assert "line 7, in <module>" in message
    assert "line 5, in configured" in message
    assert "importlib" not in message
    assert "loading.py" not in message


@pytest.mark.parametrize("line", ["import no_such_module_at_all", "raise SystemExit(3)"])
def test_other_failures_of_an_import_are_reported(write_project: Write, line: str) -> None:
    project = write_project(f"\n{line}\n")
    assert failure(project).startswith(f"{project}/app.py, line 2: importing app.py raised")


def advice(project: Path) -> str:
    """The second line of the message: the line before the traceback."""
    return failure(project).splitlines()[1]


def test_a_missing_package_names_the_requirements(write_project: Write) -> None:
    project = write_project("import no_such_package.of_ours\n")
    assert advice(project) == (
        "The project has no module no_such_package, and no package of this environment has it. To install a"
        f" package, name it in requirements.txt, and run: {sys.executable} -m pip install -r"
        f" {project}/requirements.txt"
    )


def test_a_missing_part_of_the_project_is_no_package(write_project: Write) -> None:
    project = write_project("import beside_app_too.more\n")
    (project / "beside_app_too.py").touch()
    assert advice(project).startswith("Traceback")


@pytest.mark.parametrize("line", ["from agentscope.agent import {}", "import agentscope.no_such_module"])
def test_a_name_of_the_other_major_says_what_to_install(write_project: Write, line: str) -> None:
    has, other, name, instead = (
        ("1", "2", "Agent", "ReActAgent") if MAJOR == 1 else ("2", "1", "ReActAgent", "Agent")
    )
    found = version("agentscope")
    what = f"agent.{name}; its class is agentscope.agent.{instead}" if "{}" in line else "no_such_module"
    assert found.startswith(has)
    assert advice(write_project(line.format(name) + "\n")) == (
        f"AgentScope {found} has no agentscope.{what}. An App that is written for {other}.x needs:"
        f' {sys.executable} -m pip install "agentscope-supervisor[v{other}]"'
    )


def test_an_app_that_raises_only_is_accepted(write_project: Write) -> None:
    assert load_app(write_project(METHOD.format("def __call__(self, msg, ctx):", "raise RuntimeError")))


def test_tracebacks_of_chained_errors_are_trimmed(write_project: Write) -> None:
    project = write_project(
        """
        try:
            {}["x"]
        except KeyError as error:
            raise ValueError("no x") from error
        """
    )
    message = failure(project)
    assert "KeyError: 'x'" in message
    assert "direct cause" in message
    assert "importlib" not in message


def test_a_missing_class_is_reported(write_project: Write) -> None:
    project = write_project("x = 1\n")
    assert failure(project).startswith(
        f"{project}/app.py: there is no class App; app.py must define class App"
    )


@pytest.mark.parametrize(
    "source, said",
    [
        ("\ndef App(): ...\n", "line 2: App is a function;"),
        ("\n\nApp = 3\n", "line 3: App is a int object;"),
        ("class App: ...\n", "line 1: App derives from builtins.object;"),
        ("from json import JSONDecoder as App\n", "line 1: App derives from builtins.object;"),
    ],
)
def test_an_app_that_is_not_a_subclass_of_agentapp_is_rejected(
    write_project: Write, source: str, said: str
) -> None:
    message = failure(write_project(source))
    assert said in message
    assert "app.py must define class App(AgentApp)" in message


def test_an_app_without_call_is_rejected(write_project: Write) -> None:
    project = write_project(
        """
        from agentscope.runtime import AgentApp

        class App(AgentApp):
            def call(self): ...
        """
    )
    assert f"{project}/app.py, line 4: App does not define __call__" in failure(project)


def test_an_exception_in_the_constructor_is_reported(write_project: Write) -> None:
    project = write_project(
        """
        from agentscope.runtime import AgentApp

        class App(AgentApp):
            def __init__(self):
                raise RuntimeError("no database")

            async def __call__(self, msg, ctx):
                yield msg
        """
    )
    message = failure(project)
    assert f"{project}/app.py, line 4: App() raised RuntimeError: no database" in message
    assert "line 6, in __init__" in message
    assert "loading.py" not in message


def test_a_constructor_with_required_arguments_is_reported(write_project: Write) -> None:
    project = write_project(
        """
        from agentscope.runtime import AgentApp

        class App(AgentApp):
            def __init__(self, model): ...

            async def __call__(self, msg, ctx):
                yield msg
        """
    )
    assert "App() raised TypeError" in failure(project)


METHOD = """
    from agentscope.runtime import AgentApp

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield msg

        {}
            {}
"""


@pytest.mark.parametrize(
    "signature, body, wrong",
    [
        ("async def __call__(self, msg):", "yield msg", "cannot be called with (msg, ctx): too many"),
        (
            "async def __call__(self, msg, ctx, user):",
            "yield msg",
            "cannot be called with (msg, ctx): missing",
        ),
        ("async def __call__(self, msg, *, ctx):", "yield msg", "cannot be called with (msg, ctx)"),
        ("def __call__(self, msg, ctx):", "yield msg", "contains yield, and is not async"),
        (
            "def __call__(self, msg, ctx):",
            "return Msg('a', 'b', 'assistant')",
            "is not async, and returns no",
        ),
        ("def __call__(self, msg, ctx):", "print(msg)", "is not async, and returns no stream of messages"),
        ("async def on_startup(self, config):", "pass", "cannot be called with (): missing"),
        ("def on_startup(self):", "self.ready = True", "is not async, and returns nothing to await"),
        ("async def on_startup(self):", "yield", "contains yield"),
        ("def on_shutdown(self):", "return None", "is not async"),
        ("async def on_session_idle(self):", "pass", "cannot be called with (ctx)"),
        ("async def on_session_stale(self):", "pass", "cannot be called with (ctx)"),
    ],
)
def test_a_method_that_a_worker_cannot_call_is_reported(
    write_project: Write, signature: str, body: str, wrong: str
) -> None:
    project = write_project(METHOD.format(signature, body))
    name = signature.split("(")[0].split()[-1]
    message = failure(project)
    assert message.startswith(f"{project}/app.py, line 4: App.{name} {wrong}")
    assert f"; App must define async def {name}(self" in message


def test_every_form_that_a_worker_can_call_is_accepted(write_project: Write) -> None:
    project = write_project(
        """
        import functools
        from agentscope.runtime import AgentApp

        def with_user(function):
            @functools.wraps(function)
            def call(self, *arguments):
                return function(self, *arguments, user="u")
            return call

        class App(AgentApp):
            @with_user
            async def __call__(self, msg, ctx, user):
                yield msg

            def on_startup(self):
                def log(): return None
                return self.prepare()

            async def prepare(self):
                pass

            async def on_session_idle(self, ctx, *more, now=None):
                pass

            on_shutdown = print
        """
    )
    assert load_app(project) is not None
