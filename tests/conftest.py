"""What the tests of whole instances share: projects, instances, and the check that nothing is left of them.

An instance is dear (seconds), so most tests use `shared`, one for the whole run; a test that hurts its
instance starts its own with `start_instance`. Both are ended, and looked at, when the test is over.
"""

import compileall
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.harness import projects, standin
from tests.harness.browser import Chromium
from tests.harness.instance import Instance
from tests.harness.waiting import wait_until

StartInstance = Callable[..., Instance]

_SHARED_QUEUE = 3  # waiting turns of a session of the shared instance; few, so that a test can fill it

_ROOT = Path(__file__).parents[1]

_instances = pytest.StashKey[list[Instance]]()

# A script's background begins with SIGINT ignored, and so would all that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def python_v1() -> str:
    """An interpreter with AgentScope 1.x and this package; `make test` sets it up and names it."""
    python = os.environ.get("TEST_PYTHON_V1", str(_ROOT / ".venv-v1" / "bin" / "python"))
    if not Path(python).exists():
        pytest.fail(f"{python} is not there: `make .venv-v1/.ready` makes it")
    return python


@pytest.fixture(params=["1.x", "2.x"])
def python_of_each_major(request: pytest.FixtureRequest) -> str:
    """An interpreter with AgentScope 1.x, then this one, which has 2.x."""
    if request.param == "1.x":
        return str(request.getfixturevalue("python_v1"))
    return sys.executable


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the scripted App with sections of agentapp.yaml as keyword arguments."""

    def make(name: str = "project", **sections: Any) -> Path:
        return projects.scripted(tmp_path / name, **sections)

    return make


@pytest.fixture
def new_instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartInstance]:
    """Makes instances, not started, of a project; they end with the test, however they stand then."""
    with ExitStack() as stack:
        made = request.node.stash.setdefault(_instances, [])

        def make(project: Path, **options: Any) -> Instance:
            instance = stack.enter_context(Instance(project, tmp_path / "instance", **options))
            made.append(instance)
            return instance

        yield make


@pytest.fixture
def start_instance(new_instance: StartInstance, make_project: Callable[..., Path]) -> StartInstance:
    """Starts an instance, of a project or of the scripted App with sections of agentapp.yaml."""

    def start(project: Path | None = None, *, workers: int = 2, **sections: Any) -> Instance:
        return new_instance(project or make_project(**sections), workers=workers).start()

    return start


@pytest.fixture(scope="module")
def start_module_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartInstance]:
    """The same as `start_instance`, for instances that all tests of a module use."""
    with ExitStack() as stack:

        def start(project: Path | None = None, *, workers: int = 2, **sections: Any) -> Instance:
            folder = tmp_path_factory.mktemp("module")
            project = project or projects.scripted(folder / "project", **sections)
            return stack.enter_context(Instance(project, folder, workers=workers)).start()

        yield start


@pytest.fixture(scope="session")
def _shared_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Instance]]:
    """Returns the shared instance on the AgentScope of the running test; starts it on first use."""
    started: dict[bool, Instance] = {}
    with ExitStack() as stack:

        def get() -> Instance:
            if standin.is_chosen() not in started:
                folder = tmp_path_factory.mktemp("shared")
                project = projects.scripted(
                    folder / "project",
                    server={"keepalive_interval": 1},
                    sessions={"max_queue": _SHARED_QUEUE},
                )
                started[standin.is_chosen()] = stack.enter_context(Instance(project, folder)).start()
            return started[standin.is_chosen()]

        yield get


@pytest.fixture
def shared(_shared_instance: Callable[[], Instance]) -> Iterator[Instance]:
    """An instance of two workers that all tests use and none may hurt.

    Afterwards every turn of the test must have ended, and no worker may have been lost.
    """
    instance = _shared_instance()
    before = instance.ready_workers()
    yield instance
    wait_until(lambda: instance.health()["turns"]["open"] == 0, 10.0, "every turn has ended")
    assert instance.ready_workers() == before
    assert len(before) == 2


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A browser for all tests; each opens pages of its own."""
    with Chromium() as browser:
        yield browser


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the modules of a supervisor and its workers, which write no bytecode: see `environment`."""
    if hasattr(session.config, "workerinput"):  # a process of pytest-xdist: its parent has done it
        return
    for package in ("agentscope_protocol", "agentscope_supervisor", "agentscope_worker"):
        spec = find_spec(package)
        assert spec is not None
        for folder in spec.submodule_search_locations or ():
            compileall.compile_dir(folder, quiet=2)
    compileall.compile_dir(standin.STANDIN, quiet=2)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    standin.choose(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of each instance that a failed test used."""
    report = yield
    if report.failed:
        used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Instance)]
        for instance in used + item.stash.get(_instances, []):
            report.sections.append((f"log of instance {instance.name}", instance.last_log_lines))
    return report
