"""Requirements of a project, compared with the packages that are installed here."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from agentscope_worker.installed_requirements import requirement_problems

PYTEST = version("pytest")


def problems(folder: Path, **files: str) -> list[str]:
    """The problems of requirements.txt; each argument is the content of a file of that name."""
    for name, content in files.items():
        (folder / f"{name}.txt").write_text(content)
    return list(requirement_problems(folder / "requirements.txt"))


def test_a_lock_file_with_hashes_and_every_legal_form_is_accepted(tmp_path: Path) -> None:
    legal = f"""
        --index-url https://host/simple
        --require-hashes
        -e .
        pytest=={PYTEST} \\
            --hash=sha256:{"0" * 64} \\
            --hash=sha256:{"1" * 64}
        no-such-package ; python_version < "3"   # not for this Python
        Packaging[extra] >= 1
        packaging @ https://host/packaging.whl
        ./wheels/x.whl
        -r base.txt
    """
    plain = "\n".join(line.strip() for line in legal.splitlines())
    assert problems(tmp_path, requirements="\ufeff" + plain, base="-r requirements.txt\npytest\n") == []


def test_problems_name_the_file_and_the_line_of_each(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    found = problems(
        tmp_path,
        requirements="pytest\\\n<1\n-r sub/more.txt\n-r missing.txt\n-c pins.txt\ntwo words\n",
        pins="PyTest==0.1\nno-such-package==1\n",
        **{"sub/more": "\nno-such-package-here==1 --hash=sha256:aa\n"},
    )
    _, _, reason = found[1].partition("requirement: ")
    pip = f"install it with: {sys.executable} -m pip install"
    assert found == [
        "requirements.txt:4: cannot read missing.txt: No such file or directory",
        f"requirements.txt:6: 'two words' is not a valid requirement: {reason}",
        f"requirements.txt:1: pytest<1 is required, but {PYTEST} is installed; {pip} 'pytest<1'",
        f"sub/more.txt:2: no-such-package-here is not installed; {pip} 'no-such-package-here==1'",
        f"pins.txt:1: PyTest==0.1 is required, but {PYTEST} is installed; {pip} 'PyTest==0.1'",
    ]


def test_a_file_that_cannot_be_decoded_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getencoding", lambda: "utf-8")
    (tmp_path / "requirements.txt").write_bytes("# 依赖\n".encode("gbk"))
    (problem,) = requirement_problems(tmp_path / "requirements.txt")
    assert problem.startswith("requirements.txt: cannot be decoded (")
    assert problem.endswith("; save the file as UTF-8")


def test_without_the_file_nothing_is_required(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


def test_passwords_in_urls_are_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    text = "no-such-package @ https://me:${TOKEN}@host/x.whl\ntwo words @ https://me:hush@host/x.whl\n"
    found = "\n".join(problems(tmp_path, requirements=text))
    assert "hush" not in found
    assert "no-such-package is not installed; install it with: " in found
    assert found.endswith("-m pip install -r requirements.txt")
    assert "'two words @ https://…@host/x.whl' is not a valid requirement" in found
