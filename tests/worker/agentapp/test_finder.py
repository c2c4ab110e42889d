"""The module names of agentscope-runtime, and when this package answers to them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from agentscope_worker.agentapp import finder, names
from tests.worker.agents import MAJOR

SHIM = Path(__file__).parents[3] / "worker" / "shim" / "agentscope_supervisor.pth"


def python(code: str, **environment: str) -> str:
    """The output of a new interpreter that has what the shim adds."""
    shim = SHIM.read_text("utf-8")
    run = subprocess.run(
        [sys.executable, "-c", f"{shim}\n{code}"], capture_output=True, text=True, check=True, env=environment
    )
    return run.stdout.strip()


@pytest.mark.parametrize("module", names.NAMES)
def test_every_name_of_the_table_exists(module: str) -> None:
    imported = importlib.import_module(module)
    for name in imported.__all__:
        assert getattr(imported, name) is not None


def test_an_unknown_module_says_how_to_get_the_real_package() -> None:
    with pytest.raises(ModuleNotFoundError, match="AGENTSCOPE_RUNTIME=package"):
        importlib.import_module("agentscope_runtime.sandbox")
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from agentscope_runtime.engine import Nothing")


def test_an_interpreter_knows_the_names_and_has_imported_nothing_for_them() -> None:
    code = """
import sys
print([name for name in sys.modules if name.startswith("agentscope")])
from agentscope_runtime.engine.schemas.agent_schemas import RunStatus
print(RunStatus.Completed, "fastapi" in sys.modules, "agentscope" in sys.modules)
"""
    loaded, used = python(code).splitlines()
    assert (
        loaded == "['agentscope_worker', 'agentscope_worker.agentapp', 'agentscope_worker.agentapp.finder']"
    )
    assert used == "completed False False"


@pytest.mark.parametrize(
    "choice, answers", [("auto", MAJOR == 2), ("light", True), ("package", False)], ids=str
)
def test_the_real_package_answers_if_it_can_work_or_is_chosen(
    choice: str, answers: bool, tmp_path: Path
) -> None:
    (tmp_path / "agentscope_runtime").mkdir()
    (tmp_path / "agentscope_runtime" / "__init__.py").write_text("REAL = True\n")
    code = "import agentscope_runtime; print(not hasattr(agentscope_runtime, 'REAL'))"
    assert python(code, PYTHONPATH=str(tmp_path), AGENTSCOPE_RUNTIME=choice) == str(answers)


def test_a_wrong_choice_says_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_RUNTIME", "real")
    with pytest.raises(ImportError, match="must be auto, light or package, not 'real'"):
        finder.is_light()


@pytest.mark.parametrize(
    "name, instead",
    [
        ("KubernetesDeployManager", "configs/kubernetes"),
        ("K8sConfig", "configs/kubernetes"),
        ("ModelstudioDeployManager", "agentscope-supervisor pack"),
    ],
)
def test_deployers_for_clouds_say_what_to_do_instead(name: str, instead: str) -> None:
    deployers = importlib.import_module("agentscope_runtime.engine.deployers")
    with pytest.raises(NotImplementedError, match=f"{name} is not part of .*{instead}"):
        getattr(deployers, name)()


def test_the_registry_of_nacos_says_what_to_do_instead() -> None:
    a2a = importlib.import_module("agentscope_runtime.engine.deployers.adapter.a2a")
    with pytest.raises(NotImplementedError, match="derive a class from A2ARegistry"):
        a2a.NacosRegistry()
