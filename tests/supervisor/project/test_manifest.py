"""The manifest of an archive: what it says comes back, and a wrong one is refused with the reason."""

import json
from typing import Any

import pytest

from agentscope_supervisor.project.manifest import (
    MANIFEST,
    MAX_BYTES,
    MAX_FILES,
    MAX_PATH,
    Entry,
    ManifestError,
    decode,
    made,
    wrong_with,
)
from agentscope_supervisor.system.instance_dir import name_of

HASH = "0" * 64


def entry(path: str, size: int = 1) -> Entry:
    return Entry(path=path, size=size, sha256=HASH)


def encoded(**changes: Any) -> bytes:
    value = json.loads(made("shop", {"python": "3.11.7"}, [entry("app.py")]).encode())
    return json.dumps({**value, **changes}).encode()


def file(**changes: Any) -> list[dict[str, Any]]:
    return [{"path": "app.py", "size": 1, "sha256": HASH, "executable": False, **changes}]


def test_what_was_encoded_comes_back_in_order() -> None:
    files = [entry("b.py"), entry("a/c.py"), Entry(path="a.sh", size=0, sha256=HASH, executable=True)]
    manifest = made("shop", {"python": "3.11.7"}, files)
    assert [each.path for each in manifest.files] == ["a.sh", "a/c.py", "b.py"]
    assert decode(manifest.encode()) == manifest
    assert made("shop", {"python": "3.11.7"}, reversed(files)).encode() == manifest.encode()


def test_a_later_version_may_say_more() -> None:
    assert decode(encoded(more=1)).name == "shop"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has no schema_version"),
        (b"{}", "has no schema_version"),
        (encoded(schema_version="1"), "has no schema_version"),
        (encoded(schema_version=2), "is of schema 2; this version reads schema 1"),
        (encoded(files=7), "files: Input should be a valid list"),
        (encoded(files=file(size="1")), "files.0.size: Input should be a valid integer"),
        (encoded(files=file(size=-1)), "files.0.size"),
        (encoded(files=file(sha256="0")), "files.0.sha256"),
        (encoded(files=file(path="../x")), "files.0.path: the path '../x' is no plain relative path"),
        (encoded(files=file() * 2), "the files are not in order, each once"),
        (encoded(files=file(path="b") + file(path="a")), "the files are not in order, each once"),
        (encoded(files=file(path=MANIFEST)), f"{MANIFEST} lists itself"),
        (encoded(files=file(path="a") + file(path="a/b")), "'a' is a file and a folder"),
        (encoded(files=file(path="a") + file(path="a-b") + file(path="a/b")), "'a' is a file and a folder"),
        (encoded(files=file(path="a", size=MAX_BYTES) + file(path="b")), "are larger than 1024 MB together"),
        (encoded(files=file() * (MAX_FILES + 1)), "files: List should have at most 10000 items"),
        (encoded(name="../x"), "name"),
    ],
)
def test_a_wrong_one_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ManifestError) as raised:
        decode(raw)
    assert why in str(raised.value)


def test_a_new_one_keeps_the_rules_too() -> None:
    with pytest.raises(ManifestError, match="the files are larger"):
        made("shop", {}, [entry("a", MAX_BYTES), entry("b")])


@pytest.mark.parametrize(
    "path", ["app.py", "a/b/c.txt", "über uns.md", "..a", "a..", "a\\b", "-rf", "x" * MAX_PATH]
)
def test_paths_of_files(path: str) -> None:
    assert wrong_with(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "a/",
        "a//b",
        ".",
        "./a",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "a\nb",
        "\x00",
        "a\udcff",
        "x" * 513,
    ],
)
def test_paths_that_are_none(path: str) -> None:
    assert wrong_with(path) is not None


@pytest.mark.parametrize("name", ["shop", "a.b-c_d", "x" * 64, "", "-a", ".a", "a/b", "x" * 65, "a\n"])
def test_a_name_is_one_of_an_instance(name: str) -> None:
    def taken(by: Any) -> bool:
        try:
            by()
        except (ValueError, ManifestError):
            return False
        return True

    from pathlib import Path

    assert taken(lambda: made(name, {}, [])) == taken(lambda: name_of(name, Path()))
