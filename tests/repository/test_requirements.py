"""The pinned packages of the image, and the checksums of a release."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import checksums

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FILES: Final = ("requirements.txt", "requirements-build.txt")


def pinned(name: str) -> dict[str, str]:
    """Return the version of each package, after a check that each has a hash."""
    text = (ROOT / "configs" / name).read_text("utf-8")
    entries = re.sub(r"\s*#.*", "", text).replace("\\\n", " ").splitlines()
    found = {}
    for entry in filter(None, map(str.strip, entries)):
        requirement, *hashes = re.split(r"\s+--hash=", entry)
        parsed = re.fullmatch(r"([\w.-]+)==(\S+)(?: ; .*)?", requirement)
        assert parsed, f"not pinned: {entry}"
        assert hashes, entry
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), parsed[1]
        found[canonicalize_name(parsed[1])] = parsed[2]
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_package_of_the_image_is_pinned_by_hash(name: str) -> None:
    assert pinned(name)
    text = (ROOT / "configs" / "Containerfile").read_text("utf-8")
    copied = "/tmp/pinned.txt" if name == "requirements.txt" else f"configs/{name}"
    assert f"pip install --no-cache-dir --require-hashes -r {copied}" in text


@pytest.mark.parametrize(
    "name, required",
    [
        ("requirements.txt", PROJECT["project"]["dependencies"]),
        (
            "requirements-build.txt",
            [
                *PROJECT["build-system"]["requires"],
                *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["dependencies"],
            ],
        ),
    ],
)
def test_the_pins_match_the_requirements_of_the_package(name: str, required: list[str]) -> None:
    """If this fails: `make requirements`."""
    versions = pinned(name)
    for requirement in map(Requirement, required):
        found = versions.get(canonicalize_name(requirement.name))
        assert found is not None, requirement
        assert requirement.specifier.contains(found), f"{requirement} is pinned to {found}"


def test_the_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"a")
    (tmp_path / "b.tar.gz").write_bytes(b"b")
    (tmp_path / checksums.NAME).write_text("old")
    (tmp_path / checksums.NAME).write_text("".join(checksums.lines(tmp_path)))
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", checksums.NAME], cwd=tmp_path, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines() == [b"a.whl: OK", b"b.tar.gz: OK"]
