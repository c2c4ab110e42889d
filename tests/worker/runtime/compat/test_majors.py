"""The installation check: each unsupported combination is reported with the pip command that fixes it."""

import asyncio
import importlib.abc
import importlib.metadata
import sys
from pathlib import Path

import pytest

from agentscope_protocol.config import settings
from agentscope_protocol.config.settings import Settings
from agentscope_worker import check, host
from agentscope_worker.runtime.boot_error import BootError, pip_install
from agentscope_worker.runtime.compat import majors

pytestmark = pytest.mark.agentscope

GOOD = {"mcp": "1.30.0", "greenlet": "3.5.6", "tqdm": "4.7", "openai": "3.54.0", "anthropic": "2.1"}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The installed packages as the check sees them; a test fills the dict."""
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(majors, "_version", majors._version.__wrapped__)  # others are cached
    return installed


MCP = "mcp>=1.13,<2"
PIP = f"{sys.executable} -m pip install "


def refusal(*providers: str) -> str:
    """The error message for an unsupported installation."""
    with pytest.raises(BootError) as failure:
        majors.check_installation(frozenset(providers))
    assert failure.value.permanent
    return failure.value.message


@pytest.mark.parametrize("version, major", [("1.0.21", 1), ("1.0.22", 1), ("2.0.8", 2), ("2.0.10.post1", 2)])
def test_supported_releases_are_accepted(install: dict[str, str], version: str, major: int) -> None:
    install.update(GOOD, agentscope=version)
    assert majors.check_installation() == major


@pytest.mark.parametrize(
    "version, wanted",
    [
        ("0.1.6", '"agentscope-supervisor[v2]" "agentscope>=2.0.8,<3"'),
        ("1.0.20", '"agentscope-supervisor[v1]" "agentscope>=1.0.21,<2"'),
        *[
            (version, '"agentscope-supervisor[v2]" "agentscope>=2.0.8,<3"')
            for version in (
                *("2.0.0", "2.0.1", "2.0.2", "2.0.3", "2.0.4", "2.0.4.post1"),
                *("2.0.5", "2.0.6", "2.0.7", "2.0.7.post1", "2.0.8rc1"),
            )
        ],
        ("3.0.0", '"agentscope-supervisor[v2]" "agentscope>=2.0.8,<3"'),
    ],
)
def test_unsupported_releases_are_rejected(install: dict[str, str], version: str, wanted: str) -> None:
    install.update(GOOD, agentscope=version)
    told = refusal()
    assert told.startswith(f"AgentScope {version} is not supported")
    assert told.endswith(PIP + wanted)


def test_a_missing_agentscope_is_reported(install: dict[str, str]) -> None:
    told = refusal()
    assert told.startswith("AgentScope is not installed")
    assert told.endswith(PIP + '"agentscope-supervisor[v2]" "agentscope>=2.0.8,<3"')


@pytest.mark.parametrize(
    "agentscope, installed, providers, wanted",
    [
        # The result of `pip install "agentscope<2"`, and of each attempt to fix it by hand.
        ("1.0.21", {"mcp": "2.3.0", "greenlet": None, "tqdm": None}, "", f'"{MCP}" greenlet tqdm'),
        ("1.0.21", {"mcp": "2.0.0a1"}, "", f'"{MCP}"'),
        ("1.0.21", {"mcp": "1.12.4"}, "", f'"{MCP}"'),
        ("1.0.21", {"mcp": None}, "", f'"{MCP}"'),
        ("1.0.21", {"greenlet": None, "tqdm": None}, "", "greenlet tqdm"),
        ("1.0.21", {"greenlet": None}, "", "greenlet"),
        ("1.0.21", {"tqdm": None}, "", "tqdm"),
        ("1.0.21", {"openai": "3.25.0"}, "openai", '"openai<3.25"'),
        ("1.0.21", {"openai": "3.52.1", "anthropic": "2.11"}, "openai", '"openai<3.25"'),
        ("1.0.21", {"anthropic": "1.0.0"}, "anthropic", '"anthropic<1"'),
        ("1.0.21", {"openai": "4.0", "anthropic": "2.11"}, "openai anthropic", '"openai<3.25" "anthropic<1"'),
        ("2.0.10", {"mcp": "2.3.0"}, "", f'"{MCP}"'),
        ("2.0.8", {"mcp": None}, "", f'"{MCP}"'),
        ("2.0.11", {"mcp": "1.30.0"}, "", '"mcp>=2"'),
    ],
)
def test_unsupported_combinations_are_reported(
    install: dict[str, str], agentscope: str, installed: dict[str, str | None], providers: str, wanted: str
) -> None:
    install.update(GOOD, openai="3.24.0", anthropic="0.125.0", agentscope=agentscope)
    if agentscope == "2.0.11":
        install["mcp"] = "2.3.0"
    majors.check_installation(frozenset(providers.split()))
    for package, version in installed.items():
        if version is None:
            del install[package]
        else:
            install[package] = version
    told = refusal(*providers.split())
    assert told.startswith(f"AgentScope {agentscope} does not work with the other installed packages")
    assert told.endswith(PIP + wanted)


@pytest.mark.parametrize(
    "agentscope, provider",
    [("1.0.21", "dashscope"), ("1.0.21", "ollama"), ("2.0.10", "openai"), ("2.0.10", "anthropic")],
)
def test_newer_clients_are_accepted_where_they_work(
    install: dict[str, str], agentscope: str, provider: str
) -> None:
    install.update(GOOD, openai="3.54.0", anthropic="2.11", agentscope=agentscope)
    majors.check_installation(frozenset({provider}))


def test_a_release_that_requires_mcp_2_accepts_it(install: dict[str, str]) -> None:
    install.update(GOOD, mcp="2.3.0", agentscope="2.0.11")
    assert majors.check_installation() == 2


async def test_a_worker_checks_the_installation_before_it_imports_agentscope(
    install: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`agentscope-supervisor check` starts in the same way."""
    install.update(GOOD, mcp="2.3.0", agentscope="1.0.21")
    monkeypatch.setattr(majors, "seam", lambda: pytest.fail("it went on to import AgentScope"))
    monkeypatch.setattr(host, "seam", majors.seam)
    with pytest.raises(BootError, match="does not work with"):
        await host.boot(Settings(), tmp_path)
    # asyncio.run in `check` needs a thread without a loop.
    assert await asyncio.to_thread(check.check, tmp_path, settings.dump(Settings()), ()) == 78


@pytest.mark.parametrize("failure", [ImportError("no name"), AttributeError("gone"), TypeError("changed")])
def test_an_error_inside_an_import_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    class Breaks(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.startswith("agentscope_worker.runtime.compat.agentscope"):
                raise failure

    major = majors.check_installation()
    majors.seam.cache_clear()
    monkeypatch.delitem(sys.modules, f"agentscope_worker.runtime.compat.agentscope{major}", raising=False)
    monkeypatch.delattr(sys.modules["agentscope_worker.runtime.compat"], f"agentscope{major}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Breaks(), *sys.meta_path])
    with pytest.raises(BootError) as told:
        majors.seam()
    assert f"cannot be imported: {type(failure).__name__}: {failure}. " in told.value.message
    assert told.value.message.endswith(PIP + f'"agentscope-supervisor[v{major}]"')
    monkeypatch.undo()
    assert major == majors.seam().MAJOR


def test_pip_commands_are_valid_shell() -> None:
    line = pip_install("tqdm", "mcp<2", "a[b]")
    assert line == f'{sys.executable} -m pip install tqdm "mcp<2" "a[b]"'
