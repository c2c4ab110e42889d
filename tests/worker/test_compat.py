"""The check of what is installed: each wrong combination is told with the pip line that mends it."""

import importlib.metadata
import sys

import pytest

from agentscope_worker.runtime import compat
from agentscope_worker.runtime.boot_error import BootError, pip_install

GOOD = {"mcp": "1.30.0", "greenlet": "3.5.6", "tqdm": "4.7", "openai": "3.54.0", "anthropic": "2.1"}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that are found to be installed, to be filled by a test."""
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    return installed


@pytest.mark.parametrize("version, major", [("1.0.21", 1), ("2.0.8", 2), ("2.0.10.post1", 2)])
def test_supported(install: dict[str, str], version: str, major: int) -> None:
    install.update(GOOD, agentscope=version)
    assert compat.check_installation() == major


@pytest.mark.parametrize("version", ["1.0.20", "2.0.7", "0.1.6", "3.0.0"])
def test_not_supported(install: dict[str, str], version: str) -> None:
    install["agentscope"] = version
    with pytest.raises(BootError, match=f"AgentScope {version} is not supported.*pip install"):
        compat.check_installation()


def test_not_installed(install: dict[str, str]) -> None:
    with pytest.raises(BootError, match=r"AgentScope is not installed.*pip install") as failure:
        compat.check_installation()
    assert failure.value.permanent


def test_what_1x_needs_beside_it(install: dict[str, str]) -> None:
    install.update({**GOOD, "mcp": "2.3.0"}, agentscope="1.0.21")
    del install["tqdm"]
    with pytest.raises(BootError) as failure:
        compat.check_installation()
    assert failure.value.message.endswith(f'{sys.executable} -m pip install "mcp<2" tqdm')


def test_what_a_provider_needs_is_asked_only_if_it_is_used(install: dict[str, str]) -> None:
    install.update(GOOD, agentscope="1.0.21")
    compat.check_installation(frozenset({"dashscope"}))
    with pytest.raises(BootError, match=r'it needs openai<3\.25\. To mend it: .*"openai<3\.25"'):
        compat.check_installation(frozenset({"openai"}))
    install["openai"] = "3.24.0"
    compat.check_installation(frozenset({"openai"}))
    with pytest.raises(BootError, match="anthropic<1"):
        compat.check_installation(frozenset({"anthropic"}))


def test_an_import_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    compat.seam.cache_clear()
    major = compat.check_installation()
    monkeypatch.setitem(sys.modules, f"agentscope_worker.runtime.agentscope{major}", None)
    package = sys.modules["agentscope_worker.runtime"]
    monkeypatch.delattr(package, f"agentscope{major}", raising=False)
    with pytest.raises(BootError, match=rf"cannot be imported: .*agentscope-supervisor\[v{major}"):
        compat.seam()
    monkeypatch.undo()
    assert major == compat.seam().MAJOR


def test_pip_lines_can_be_pasted() -> None:
    line = pip_install("tqdm", "mcp<2", "a[b]")
    assert line == f'{sys.executable} -m pip install tqdm "mcp<2" "a[b]"'
