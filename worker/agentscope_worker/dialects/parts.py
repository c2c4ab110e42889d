"""The parts of an answer: what every source of an App gives, and what every dialect writes. Pure.

A text or a thinking has a key, which all its pieces share, and ends with Ended. A tool call has the id that
the model gave it: Call, then its arguments in pieces, then Called with all of them, then its Result.
"""

from agentscope_protocol.wire.values import value


@value
class Text:
    """A new piece of a text."""

    key: str
    text: str


@value
class Thinking:
    """A new piece of what the model thinks."""

    key: str
    text: str


@value
class Ended:
    """A text or a thinking is complete."""

    key: str


@value
class Call:
    """The model calls a tool of the App."""

    id: str
    name: str


@value
class Arguments:
    """A new piece of the arguments of a call, which are JSON."""

    id: str
    text: str


@value
class Called:
    """The arguments of a call are complete."""

    id: str
    arguments: str


@value
class Result:
    """The output of a tool."""

    id: str
    name: str
    output: str
    is_error: bool = False


@value
class Media:
    """An image, a sound, a video or a file. `url`: where it is, or a data URL that holds it."""

    key: str
    media_type: str
    url: str


@value
class Usage:
    """Tokens of one more call of a model."""

    input: int
    output: int


@value
class Error:
    """The agent reports that its answer has failed."""

    message: str


Part = Text | Thinking | Ended | Call | Arguments | Called | Result | Media | Usage | Error
