"""configs/man/agentscope-supervisor.1, the manual page, from the commands themselves (click). Pure."""

import inspect
from collections.abc import Iterator
from typing import Final

import click

from agentscope_supervisor.cli.main import main
from tools.docs.cli import EXIT_CODES, SIGNALS, commands

PROGRAM: Final = "agentscope-supervisor"


def text() -> str:
    """The page in the macros of man(7)."""
    lines = [f'.TH {PROGRAM.upper()} 1 "" "" "{PROGRAM}"', ".SH NAME"]
    lines += [f"{_roff(PROGRAM)} \\- {_roff('host AgentScope apps on supervised worker processes')}"]
    lines += [".SH SYNOPSIS", f".B {PROGRAM}", r"\fICOMMAND\fR [\fIOPTIONS\fR]"]
    lines += [".SH DESCRIPTION", *_paragraphs(main.help or ""), ".SH COMMANDS"]
    for words, command in commands(main, PROGRAM):
        lines += _command(words, command)
    lines += [".SH EXIT STATUS", *_terms(EXIT_CODES), ".SH SIGNALS", *_terms(SIGNALS)]
    return "\n".join(lines) + "\n"


def _command(words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    yield f".SS {_roff(words.removeprefix(f'{PROGRAM} '))}"
    yield f".B {_roff(' '.join([words, *command.collect_usage_pieces(context)]).rstrip())}"
    yield ".PP"
    yield from _paragraphs(command.help or "")
    records = [each.get_help_record(context) for each in command.params if isinstance(each, click.Option)]
    yield from _terms(tuple(record for record in records if record is not None))


def _terms(pairs: tuple[tuple[str, str], ...]) -> Iterator[str]:
    """A list of terms in bold, each with its meaning below."""
    for term, meaning in pairs:
        yield from (".TP", f".B {_roff(term)}", _roff(meaning))


def _paragraphs(prose: str) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(prose).split("\n\n")):
        if number:
            yield ".PP"
        yield _roff(" ".join(paragraph.split()))


def _roff(words: str) -> str:
    """Plain text as roff input: no escapes, and no line that begins with a control character."""
    escaped = words.replace("`", "").replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
