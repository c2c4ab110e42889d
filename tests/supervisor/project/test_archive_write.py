"""Archives: packing is reproducible, extraction restores the project, modified archives are refused."""

import gzip
import hashlib
import io
import json
import os
import random
import socket
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentscope_supervisor.project import archive_read
from agentscope_supervisor.project.archive_read import ArchiveError, InUse
from agentscope_supervisor.project.archive_write import Packed, PackError, pack
from agentscope_supervisor.project.manifest import MANIFEST, MAX_BYTES


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "prompts").mkdir(parents=True)
    (folder / "agentapp.yaml").write_text("")
    (folder / "app.py").write_text("first = 1\n")
    (folder / "prompts" / "größe.txt").write_text("Größe\n")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o755)
    return folder


@pytest.fixture
def packed(project: Path, tmp_path: Path) -> Path:
    make_archive(project, tmp_path / "shop.tar.gz")
    return tmp_path / "shop.tar.gz"


def make_archive(project: Path, output: Path, **options: Any) -> Packed:
    return pack(
        project,
        output,
        **{"name": "shop", "versions": {"python": "3.11"}, "save_dir": "./sessions"} | options,
    )


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


# -- packing -------------------------------------------------------------------------------------------


def test_an_extracted_archive_equals_the_project(project: Path, packed: Path, tmp_path: Path) -> None:
    archive_read.extract(packed, tmp_path / "out")
    out = contents(tmp_path / "out")
    assert json.loads(out.pop(MANIFEST))["name"] == "shop"
    assert out == contents(project)
    assert os.access(tmp_path / "out" / "tool.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "app.py", os.X_OK)
    assert [path for path in (tmp_path / "out").rglob("*") if path.stat().st_mode & 0o077] == []


def test_the_same_project_gives_the_same_bytes(project: Path, packed: Path, tmp_path: Path) -> None:
    for path in project.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode | 0o066)
    again = make_archive(project, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == packed.read_bytes()
    assert again.sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert again.size == packed.stat().st_size
    (project / "app.py").write_text("first = 2\n")
    assert make_archive(project, tmp_path / "other.tar.gz").sha256 != again.sha256


def test_private_and_generated_files_are_left_out(project: Path, tmp_path: Path) -> None:
    for name in ("sessions", ".git", ".venv", "__pycache__", "mine", "data/chats", "data/sessions"):
        (project / name).mkdir(parents=True)
        (project / name / "inner").touch()
    (project / "mine" / "pyvenv.cfg").touch()
    (project / ".env").touch()
    (project / "id.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    (project / MANIFEST).touch()
    os.mkfifo(project / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        before = Path.cwd()
        os.chdir(project)  # the path of a Unix socket has at most 107 bytes
        sock.bind("sock")
        os.chdir(before)
    result = make_archive(project, tmp_path / "a.tar.gz", save_dir="data/chats")
    assert result.left_out == {
        "secret": [".env", "id.pem"],
        "version control": [".git/"],
        "environment": [".venv/", "mine/"],
        "cache": ["__pycache__/"],
        "sessions": ["data/chats/"],
        "not a file": ["pipe", "sock"],
    }
    names = [entry.path for entry in result.manifest.files]
    assert "data/sessions/inner" in names
    assert MANIFEST not in names


def test_sessions_of_a_folder_that_was_used_before_are_left_out(project: Path, tmp_path: Path) -> None:
    old = project / "sessions"
    old.mkdir()
    (old / f"{'0a' * 32}.json").write_text('{"save":3,"format":"agentscope-supervisor session","version":1}')
    (old / f"{'0b' * 32}.1700000000.corrupt").write_text("{")
    (old / ".lock-07").touch()
    (old / "__init__.py").touch()
    (old / f"{'0c' * 32}.json").write_text("[]")
    result = make_archive(project, tmp_path / "a.tar.gz", save_dir="/var/lib/shop")
    names = [".lock-07", f"{'0a' * 32}.json", f"{'0b' * 32}.1700000000.corrupt"]
    assert result.left_out == {"sessions": [f"sessions/{name}" for name in names]}
    packed = {entry.path for entry in result.manifest.files}
    assert {"sessions/__init__.py", f"sessions/{'0c' * 32}.json"} <= packed


def test_an_archive_in_the_project_does_not_contain_itself(project: Path) -> None:
    first = make_archive(project, project / "shop.tar.gz")
    assert make_archive(project, project / "shop.tar.gz").sha256 == first.sha256
    assert "shop.tar.gz" not in [entry.path for entry in first.manifest.files]


def test_a_link_inside_the_project_is_packed_as_its_target(project: Path, tmp_path: Path) -> None:
    (project / "prompts" / "link.py").symlink_to("../app.py")
    make_archive(project, tmp_path / "a.tar.gz")
    archive_read.extract(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "prompts" / "link.py").read_text() == "first = 1\n"
    assert not (tmp_path / "out" / "prompts" / "link.py").is_symlink()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda folder: (folder / "x").symlink_to("/etc/hostname"),
            "x: is a link to /.*, outside the project",
        ),
        (lambda folder: (folder / "x").symlink_to("../other"), "x: is a link to /.*, outside the project"),
        (lambda folder: (folder / "x").symlink_to("prompts"), "x: is a link to prompts, which is not a file"),
        (lambda folder: (folder / "x").symlink_to("gone"), "x: is a link to gone, which is not a file"),
        (lambda folder: (folder / "a\nb").touch(), "'a\\nb' contains characters that cannot be printed"),
        (lambda folder: os.truncate(folder / "app.py", MAX_BYTES + 1), "app.py: is larger than 1024 MB"),
    ],
)
def test_an_error_names_the_file_that_cannot_be_packed(
    project: Path, tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    make(project)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PackError, match=why.replace("\\", "\\\\")):
        make_archive(project, tmp_path / "a.tar.gz")
    assert sorted(tmp_path.iterdir()) == before, "no partial archive is left"


# -- extracting ----------------------------------------------------------------------------------------

Members = list[tuple[tarfile.TarInfo, bytes]]


def remade(archive: Path, change: Callable[[Members], None]) -> Path:
    """Return a copy of an archive with modified members."""
    members: Members = []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            members.append((member, file.read() if file is not None else b""))
    change(members)
    other = archive.with_name("other.tar.gz")
    with tarfile.open(other, "w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return other


def of(members: Members, name: str) -> int:
    return next(at for at, (member, _) in enumerate(members) if member.name == name)


def replaced(members: Members, name: str, content: bytes) -> None:
    at = of(members, name)
    members[at][0].size = len(content)
    members[at] = (members[at][0], content)


def added(members: Members, name: str, at: int | None = None, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    members.insert(len(members) if at is None else at, (member, b""))


def as_link(members: Members, name: str, kind: bytes) -> None:
    at = of(members, name)
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, "/etc/passwd"
    members[at] = (link, b"")


def manifest_says(members: Members, change: Callable[[Any], object]) -> None:
    value = json.loads(members[0][1])
    change(value)
    replaced(members, MANIFEST, json.dumps(value).encode())


MODIFIED: dict[str, tuple[Callable[[Members], object], str]] = {
    "content": (
        lambda m: replaced(m, "app.py", b"first = 7\n"),
        "app.py: has changed since it was packed: its sha256",
    ),
    "size": (lambda m: replaced(m, "app.py", b""), "app.py: has 0 bytes; the manifest lists 10"),
    "missing": (lambda m: m.pop(of(m, "app.py")), "app.py: is missing, or 'prompts/"),
    "last missing": (lambda m: m.pop(), "tool.sh: is missing"),
    "added": (lambda m: added(m, "more.py"), "'more.py': was added"),
    "added before": (
        lambda m: added(m, "a.py", 1),
        "agentapp.yaml: is missing, or 'a.py' was added before it",
    ),
    "added outside": (lambda m: added(m, "../../.bashrc"), "'../../.bashrc': was added"),
    "a folder added": (lambda m: added(m, "x", kind=tarfile.DIRTYPE), "'x': was added"),
    "symlink": (lambda m: as_link(m, "app.py", tarfile.SYMTYPE), "app.py: is a link or a device"),
    "hard link": (lambda m: as_link(m, "app.py", tarfile.LNKTYPE), "app.py: is a link or a device"),
    "device": (lambda m: as_link(m, "app.py", tarfile.CHRTYPE), "app.py: is a link or a device"),
    "no manifest": (lambda m: m.pop(0), "does not start with agentapp.manifest.json"),
    "manifest is a link": (lambda m: as_link(m, MANIFEST, tarfile.SYMTYPE), "does not start with"),
    "nothing": (lambda m: m.clear(), "is damaged, or was not made by|does not start with"),
    "manifest": (lambda m: replaced(m, MANIFEST, b"{"), "agentapp.manifest.json: is not JSON"),
    "manifest too long": (
        lambda m: replaced(m, MANIFEST, b" " * (9 << 20)),
        "agentapp.manifest.json: is longer than 8 MB",
    ),
    "schema": (lambda m: manifest_says(m, lambda v: v.update(schema_version=9)), "has schema_version 9"),
    "path out": (
        lambda m: manifest_says(m, lambda v: v["files"][0].update(path="../agentapp.yaml")),
        "is not a relative path",
    ),
    "hash": (
        lambda m: manifest_says(m, lambda v: v["files"][0].update(sha256="0" * 64)),
        "agentapp.yaml: has changed since it was packed",
    ),
    "long header": (
        lambda m: m[1][0].pax_headers.update(comment="x" * (2 << 20)),
        "a header is longer than 1048576 bytes",
    ),
}


@pytest.mark.parametrize("kind", MODIFIED)
def test_a_modified_archive_is_refused_with_its_path(packed: Path, tmp_path: Path, kind: str) -> None:
    change, why = MODIFIED[kind]
    other = remade(packed, lambda members: change(members) and None)
    root = tmp_path / "state"
    archive_read.install(packed, root)
    before = contents(root / "app")
    for use in (archive_read.verify, lambda archive: archive_read.extract(archive, tmp_path / "out")):
        with pytest.raises(ArchiveError, match=why) as raised:
            use(other)
        assert str(other) in str(raised.value)
    assert not (tmp_path / ".bashrc").exists()
    assert contents(root / "app") == before


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """1 GB of zeros compressed to 1 MB, in place of the manifest or its header."""
    bomb = tmp_path / "bomb.tar.gz"
    header = tarfile.TarInfo(MANIFEST)
    header.size = 1 << 40
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        file.write(bytes(32 << 20))
    with pytest.raises(ArchiveError, match="is longer than"):
        archive_read.verify(bomb)


def same_content(one: bytes, other: bytes) -> bool:
    """Return whether both decompress to the same bytes: some bits of a deflate stream have no meaning."""
    try:
        return gzip.decompress(one) == gzip.decompress(other)
    except (OSError, EOFError, zlib.error):
        return False


def test_damage_anywhere_is_detected(packed: Path, tmp_path: Path) -> None:
    whole, chance = packed.read_bytes(), random.Random(7)
    damaged = tmp_path / "damaged.tar.gz"
    cuts = [whole[:length] for length in range(0, len(whole), 13)]
    flips = [(chance.randrange(10, len(whole) - 8), 1 << chance.randrange(8)) for _ in range(200)]
    flipped = [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at, bit in flips]
    for each in cuts + [each for each in flipped if not same_content(each, whole)]:
        damaged.write_bytes(each)
        with pytest.raises(ArchiveError):
            archive_read.verify(damaged)
    damaged.write_bytes(whole + gzip.compress(bytes(1 << 20)))
    with pytest.raises(ArchiveError, match="has data after its end"):
        archive_read.verify(damaged)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x1f\x8b", gzip.compress(b"text"), os.urandom(5000)],
    ids=[
        "nothing",
        "zip",
        "cut",
        "no tar",
        "chance",
    ],  # explicit ids: the gzip header holds the time, so parallel test processes would disagree on them
)
def test_other_files_are_refused_as_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"some\.tar\.gz: (is damaged, or was not made by|does not start)"):
        archive_read.manifest_of(path)


# -- installing ----------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state" / "shop"


def released(root: Path) -> None:
    """Release the lock, as the exit of the process that installed the archive does."""
    (root / "app.lock").unlink()


def test_a_new_archive_replaces_the_code_and_keeps_files_of_the_project(
    project: Path, packed: Path, tmp_path: Path, root: Path
) -> None:
    folder = archive_read.install(packed, root)
    assert contents(folder).keys() - {MANIFEST} == contents(project).keys()
    (folder / "sessions").mkdir()
    (folder / "sessions" / "a.json").write_text("{}")
    (folder / "prompts" / "notes").write_text("mine")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "app.cpython-311.pyc").write_text("old")
    (project / "app.py").write_text("first = 2\n")
    (project / "prompts" / "größe.txt").unlink()
    (project / "more").mkdir()
    (project / "more" / "new.py").touch()
    make_archive(project, tmp_path / "next.tar.gz")
    released(root)
    assert archive_read.install(tmp_path / "next.tar.gz", root) == folder
    found = contents(folder)
    del found[MANIFEST]
    assert found == contents(project) | {"sessions/a.json": "{}", "prompts/notes": "mine"}
    assert sorted(path.name for path in root.iterdir()) == ["app", "app.lock"]


def test_links_and_folders_that_the_project_made_are_replaced(
    packed: Path, tmp_path: Path, root: Path
) -> None:
    folder = archive_read.install(packed, root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "größe.txt").write_text("outside")
    (folder / "prompts" / "größe.txt").unlink()
    (folder / "prompts").rmdir()
    (folder / "prompts").symlink_to(elsewhere)
    (folder / "app.py").unlink()
    (folder / "app.py").mkdir()
    released(root)
    archive_read.install(packed, root)
    assert (elsewhere / "größe.txt").read_text() == "outside"
    assert (folder / "prompts" / "größe.txt").read_text() == "Größe\n"
    assert (folder / "app.py").read_text() == "first = 1\n"


def test_the_folder_of_a_running_instance_is_not_changed(packed: Path, root: Path) -> None:
    folder = archive_read.install(packed, root)
    (folder / "app.py").write_text("changed")
    with pytest.raises(InUse, match="choose another --name or --state-dir"):
        archive_read.install(packed, root)
    assert (folder / "app.py").read_text() == "changed"


def test_the_remains_of_an_interrupted_installation_are_removed(packed: Path, root: Path) -> None:
    (root / "app.new").mkdir(parents=True)
    (root / "app.new" / "half").touch()
    folder = archive_read.install(packed, root)
    assert not (root / "app.new").exists()
    assert "half" not in contents(folder)
