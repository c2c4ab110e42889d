"""The variables of a project's `.env` file.

The format is that of python-dotenv: `NAME=value` lines, quotes, comments, `export`, and `${NAME}` for another
variable. A variable that the environment has keeps its value. No value is logged or part of an error.
"""

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv.main import DotEnv
from dotenv.parser import parse_stream


class EnvFileError(Exception):
    """The file cannot be read. The text is meant for the user."""


def read(path: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in the file that `env` does not have.

    Raises: FileNotFoundError; EnvFileError.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise EnvFileError(f"{path}: cannot be read: {error}") from None
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key is not None and line.value is None):
            blank = len(line.original.string) - len(line.original.string.lstrip())
            number = line.original.line + line.original.string[:blank].count("\n")
            raise EnvFileError(f"{path}:{number}: is not NAME=value")
    found = DotEnv(None, io.StringIO(text), override=False).dict()
    return {name: value for name, value in found.items() if value is not None and name not in env}
