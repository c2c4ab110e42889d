"""Files of a project with the name of another module, found after the App has been loaded."""

import calendar
import sys
from pathlib import Path
from types import ModuleType

import pytest

from agentscope_worker.shadowing import BUILT_IN, Clash, clashes


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("wave", "tabnanny"):  # modules that nothing has loaded
        monkeypatch.delitem(sys.modules, name, raising=False)
    for folder in ("wave", "email", "no_package"):
        (tmp_path / folder).mkdir()
    for name in ("app", "calendar", "time", "tabnanny", "own", "wave/__init__", "no_package/x", "not-a-name"):
        (tmp_path / f"{name}.py").write_text("")
    return tmp_path


def test_a_module_that_the_project_never_imports_matters_if_others_may_import_it(project: Path) -> None:
    found = {clash.path.name: clash for clash in clashes(project)}
    assert set(found) == {"tabnanny.py", "wave"}, "the others are loaded already"
    assert not any(clash.hidden or clash.used for clash in found.values())


def test_an_import_of_the_app_returns_the_module_that_is_loaded_already(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "app.py").write_text("import os, own.x\n\ndef later():\n    from calendar import day_off\n")
    own = ModuleType("own")
    own.__file__ = str(project / "own.py")
    (project / "own.py").write_text("from time import now\nfrom . import email\nimport tabnanny\n")
    monkeypatch.setitem(sys.modules, "own", own)
    found = [clash for clash in clashes(project) if clash.used]
    assert found == [
        Clash(project / "calendar.py", calendar.__file__, "app.py, line 4", hidden=True),
        Clash(project / "tabnanny.py", found[1].other, "own.py, line 3", hidden=False),
        Clash(project / "time.py", BUILT_IN, "own.py, line 1", hidden=True),
    ]


def test_a_file_that_cannot_be_parsed_is_left_to_the_loading(project: Path) -> None:
    (project / "app.py").write_text("import calendar\nx = = 1\n")
    assert not [clash for clash in clashes(project) if clash.used]
