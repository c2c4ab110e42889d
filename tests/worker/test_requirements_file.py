"""requirements.txt in every form that pip takes."""

import codecs

import pytest
from packaging.requirements import InvalidRequirement

from agentscope_worker.requirements_file import OtherFile, decode, lines, parse, without_secrets


def read(text: str, **env: str) -> list[tuple[int, str]]:
    return list(lines(text, env))


@pytest.mark.parametrize(
    "raw",
    [
        "# höhe\nrich\n".encode(),
        "# höhe\nrich\n".encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + "# höhe\nrich\n".encode("utf-16-le"),  # `pip freeze > file` in PowerShell
        codecs.BOM_UTF16_BE + "# höhe\nrich\n".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "# höhe\nrich\n".encode("utf-32-le"),
        codecs.BOM_UTF32_BE + "# höhe\nrich\n".encode("utf-32-be"),
        "# höhe\nrich\n".encode("cp1252"),  # the encoding of the locale
    ],
)
def test_a_file_is_read_in_the_encoding_that_pip_detects(raw: bytes) -> None:
    assert decode(raw, "cp1252") == "# höhe\nrich\n"


def test_a_comment_may_name_the_encoding() -> None:
    text = "#!pip\n# -*- coding: gbk -*-\n# 依赖\nrich\n"
    assert decode(text.encode("gbk"), "utf-8") == text
    with pytest.raises(UnicodeDecodeError):
        decode(text.replace("coding", "").encode("gbk"), "utf-8")
    with pytest.raises(LookupError):
        decode(b"# coding: no-such-encoding\n", "utf-8")


def test_comments_and_empty_lines_are_no_requirements() -> None:
    assert read("# a\n\nrich # b\n  # c\nurl#d\n \t\nclick\t#e\n") == [
        *((3, "rich"), (5, "url#d"), (7, "click"))
    ]


def test_a_backslash_continues_a_line() -> None:
    assert read("rich==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nclick") == [
        (1, "rich==1     --hash=sha256:aa     --hash=sha256:bb"),
        (4, "click"),
    ]
    assert read("rich\\\n# a comment ends it\nclick\\") == [(1, "rich"), (3, "click")]
    assert read("# a comment does not continue \\\nclick") == [(2, "click")]
    assert read("a==\\\r\n1\r\n") == [(1, "a==1")]


def test_variables_are_replaced_if_they_are_set() -> None:
    text = "a==${VERSION}\nb @ https://${TOKEN}@host/b.whl\n${lower}\n$VERSION"
    assert read(text, VERSION="2", TOKEN="secret", lower="x") == [
        *((1, "a==2"), (2, "b @ https://${TOKEN}@host/b.whl"), (3, "${lower}"), (4, "$VERSION"))
    ]


@pytest.mark.parametrize(
    "line, name, specifier",
    [
        ("rich", "rich", ""),
        ("rich>=13,<15", "rich", "<15,>=13"),
        ("rich == 13.* ; python_version >= '3.8'", "rich", "==13.*"),
        ("redis[hiredis]~=5.0", "redis", "~=5.0"),
        ("rich==1 --hash=sha256:aa  --hash=sha256:bb", "rich", "==1"),
        ("rich --config-settings=a=b", "rich", ""),
        ("rich @ https://host/rich-1-py3-none-any.whl --hash=sha256:aa", "rich", ""),
        ("rich @ git+ssh://git@host/rich.git@v1#subdirectory=x", "rich", ""),
        ("rich@file:///wheels/rich.whl ; sys_platform == 'linux'", "rich", ""),
        ("zope.interface===5.x", "zope.interface", "===5.x"),
    ],
)
def test_a_requirement_is_parsed_without_its_options(line: str, name: str, specifier: str) -> None:
    found = parse(line)
    assert found is not None
    assert not isinstance(found, OtherFile)
    assert (found.name, str(found.specifier)) == (name, specifier)


@pytest.mark.parametrize(
    "line",
    [
        *("-e .", "--editable=git+https://host/x.git#egg=x", "-i https://host/simple", "--pre"),
        *("--index-url https://user:secret@host/simple", "--extra-index-url=https://host", "-f wheels"),
        *("--require-hashes", "--no-binary :all:", "--only-binary=rich", "--prefer-binary", "--no-index"),
        *("--trusted-host host", "--use-feature fast-deps", "--an-option-of-a-newer-pip"),
        *(
            ".",
            "./local",
            "../shared[extra]",
            "/abs/path",
            "~/x",
            "sub/folder",
            "C:\\wheels\\x.whl",
            "sub\\x",
        ),
        *(
            "rich-1-py3-none-any.whl",
            "rich-1.tar.gz[extra]",
            "https://host/x.zip",
            "file:./x",
            "git+https://h/x@v1",
        ),
        *("./x.whl --hash=sha256:aa", "-r https://host/requirements.txt", "x.whl ; python_version > '3'"),
    ],
)
def test_what_only_pip_can_judge_is_left_to_pip(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    "line, path, constrains",
    [
        ("-r base.txt", "base.txt", False),
        ("-rbase.txt", "base.txt", False),
        ("--requirement=base.txt", "base.txt", False),
        ("--requirement  'my base.txt'", "my base.txt", False),
        ("-c pins.txt", "pins.txt", True),
        ("--constraint = pins.txt", "pins.txt", True),
        ("-c it's.txt", "it's.txt", True),
    ],
)
def test_another_file_is_named(line: str, path: str, constrains: bool) -> None:
    assert parse(line) == OtherFile(path, constrains)


def test_credentials_in_a_url_are_not_shown() -> None:
    assert without_secrets("x @ https://me:pw@host/@v ://u@h") == "x @ https://…@host/@v ://…@h"


@pytest.mark.parametrize("line", ["two words", "rich>=", "rich=1", "=="])
def test_what_pip_refuses_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequirement):
        parse(line)
