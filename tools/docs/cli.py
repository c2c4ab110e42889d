"""docs/reference/cli.md, from the commands themselves (click). Pure."""

import inspect
from collections.abc import Iterator
from typing import Final

import click

from agentscope_supervisor.cli.main import developer, main
from tools.docs.markdown import code, page, table

INTRODUCTION: Final = """
`agentscope-supervisor` hosts a project and operates running instances. `agentscope run` is the short form for
development. Both commands take `--help`.

`PROJECT` is a folder with an agentapp.yaml, or an archive of `agentscope-supervisor pack`; the default is the
current folder. Options override the file.
"""

ONE: Final = "With one running instance, neither option is needed."

EXIT_CODES: Final = (
    ("0", "Success; of `start` and `run`: stopped as requested."),
    ("1", "The command failed. The reason is on stderr."),
    ("2", "Wrong usage: an unknown option, a missing argument, or a name that fits no single instance."),
    ("75", "Temporary failure: the port or the name is in use, or the runtime directory is not writable."),
    ("78", "The configuration or the App cannot work. A retry does not help."),
)

SIGNALS: Final = (
    (
        "TERM, INT",
        "Drain: running turns finish within `supervisor.drain_timeout`, then exit 0. A second one: at once.",
    ),
    (
        "HUP",
        "Reload agentapp.yaml and replace the workers one by one. Under `agentscope run`, the end of its "
        "terminal drains and exits, as TERM does.",
    ),
    ("QUIT", "Log the stacks of the supervisor and the workers."),
    ("TTIN, TTOU", "One worker slot more, one fewer."),
)


OPTION: Final = ("option", "default", "meaning")


def commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        elif not command.hidden:
            yield f"{prefix} {name}", command


INSTANCE: Final = {"--name", "--runtime-dir"}
"""Options of every command on a running instance; described once."""


def _command(words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    yield f"### {words}"
    yield inspect.cleandoc(command.help or "")
    yield f"```\n{' '.join([words, *command.collect_usage_pieces(context)]).rstrip()}\n```"
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    own = [_option(each, context) for each in options if not INSTANCE & {*each.opts}]
    if own:
        yield table(OPTION, own)
    if len(own) < len(options):
        yield "And the [options that select an instance](#options-that-select-an-instance)."


def _instance_options() -> str:
    command = main.commands["status"]
    context = click.Context(command)
    options = [each for each in command.params if isinstance(each, click.Option)]
    return table(OPTION, [_option(each, context) for each in options if INSTANCE & {*each.opts}])


def _option(option: click.Option, context: click.Context) -> list[str]:
    names = code(", ".join([*option.opts, *option.secondary_opts]))
    if not option.is_flag:
        names = f"{names} {_values(option.make_metavar(context))}"
    record = option.get_help_record(context)
    text, _, shown = (record[1] if record is not None else "").partition("  [")
    default = ""
    for each in shown.removesuffix("]").split("; "):
        default = each.removeprefix("default: ") if each.startswith("default: ") else default
    return [names, _default(default), text + (" Required." if option.required else "")]


def _values(metavar: str) -> str:
    """The values of an option. Alternatives are listed one by one: code cannot hold a `|`."""
    return " or ".join(map(code, metavar.removesuffix(" RANGE").strip("[]").split("|")))


def _default(text: str) -> str:
    """A default that is a value becomes code; one that is a sentence stays text."""
    return text if " " in text else code(text)


def text() -> str:
    """The page."""
    found = [*commands(main, "agentscope-supervisor"), *commands(developer, "agentscope")]
    overview = [
        [f"[`{words}`](#{words.replace(' ', '-')})", command.get_short_help_str(200)]
        for words, command in found
    ]
    parts = [INTRODUCTION, "## Commands", table(("command", "purpose"), overview)]
    described: dict[object, str] = {}
    for words, command in found:
        if command.callback in described:
            parts += [f"### {words}", f"The same as `{described[command.callback]}`."]
        else:
            described[command.callback] = words
            parts += _command(words, command)
    parts += ["## Options that select an instance", ONE, _instance_options()]
    parts += ["## Exit codes", table(("code", "meaning"), EXIT_CODES)]
    parts += ["## Signals", "Signals to the supervisor process.", table(("signal", "effect"), SIGNALS)]
    return page("Command line", *parts)
