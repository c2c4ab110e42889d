"""The manifest of an archive: encoding and decoding, and the reasons for which a manifest is refused."""

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
    new_manifest,
    wrong_with,
)
from agentscope_supervisor.system.instance_dir import name_of

HASH = "0" * 64


def entry(path: str, size: int = 1) -> Entry:
    return Entry(path=path, size=size, sha256=HASH)


def encoded(**changes: Any) -> bytes:
    value = json.loads(new_manifest("shop", {"python": "3.11.7"}, [entry("app.py")]).encode())
    return json.dumps({**value, **changes}).encode()


def file(**changes: Any) -> list[dict[str, Any]]:
    return [{"path": "app.py", "size": 1, "sha256": HASH, "executable": False, **changes}]


def test_a_manifest_is_decoded_as_encoded_with_sorted_files() -> None:
    files = [entry("b.py"), entry("a/c.py"), Entry(path="a.sh", size=0, sha256=HASH, executable=True)]
    manifest = new_manifest("shop", {"python": "3.11.7"}, files)
    assert [each.path for each in manifest.files] == ["a.sh", "a/c.py", "b.py"]
    assert decode(manifest.encode()) == manifest
    assert new_manifest("shop", {"python": "3.11.7"}, reversed(files)).encode() == manifest.encode()


def test_unknown_keys_are_ignored() -> None:
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
        (encoded(schema_version=2), "has schema_version 2; this version reads 1"),
        (encoded(files=7), "files: Input should be a valid list"),
        (encoded(files=file(size="1")), "files.0.size: Input should be a valid integer"),
        (encoded(files=file(size=-1)), "files.0.size"),
        (encoded(files=file(sha256="0")), "files.0.sha256"),
        (encoded(files=file(path="../x")), "files.0.path: the path '../x' is not a relative path"),
        (encoded(files=file() * 2), "the paths are not sorted and unique"),
        (encoded(files=file(path="b") + file(path="a")), "the paths are not sorted and unique"),
        (encoded(files=file(path=MANIFEST)), f"{MANIFEST} must not list itself"),
        (encoded(files=file(path="a") + file(path="a/b")), "'a' is both a file and a folder"),
        (
            encoded(files=file(path="a") + file(path="a-b") + file(path="a/b")),
            "'a' is both a file and a folder",
        ),
        (encoded(files=file(path="a", size=MAX_BYTES) + file(path="b")), "have more than 1024 MB in total"),
        (encoded(files=file() * (MAX_FILES + 1)), "files: List should have at most 10000 items"),
        (encoded(name="../x"), "name"),
    ],
)
def test_an_invalid_manifest_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ManifestError) as raised:
        decode(raw)
    assert why in str(raised.value)


def test_a_new_manifest_obeys_the_same_rules() -> None:
    with pytest.raises(ManifestError, match="the files have more than"):
        new_manifest("shop", {}, [entry("a", MAX_BYTES), entry("b")])


@pytest.mark.parametrize(
    "path", ["app.py", "a/b/c.txt", "über uns.md", "..a", "a..", "a\\b", "-rf", "x" * MAX_PATH]
)
def test_valid_paths(path: str) -> None:
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
def test_invalid_paths(path: str) -> None:
    assert wrong_with(path) is not None


@pytest.mark.parametrize("name", ["shop", "a.b-c_d", "x" * 64, "", "-a", ".a", "a/b", "x" * 65, "a\n"])
def test_a_valid_name_is_a_valid_name_of_an_instance(name: str) -> None:
    def accepted(check: Any) -> bool:
        try:
            check()
        except (ValueError, ManifestError):
            return False
        return True

    from pathlib import Path

    assert accepted(lambda: new_manifest(name, {}, [])) == accepted(lambda: name_of(name, Path()))
