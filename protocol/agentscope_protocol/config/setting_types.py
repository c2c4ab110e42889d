"""The types of single values in agentapp.yaml: bounds, secrets, and YAML's special words. Pure.

Owns the allowed values of one setting, and the base class of a section. It must not know the keys, which are
in `settings` and `runtime_settings`. The text of each ValueError appears in the report unchanged, so it names
the allowed values and never repeats the given one.

Read next: `settings`.
"""

import ipaddress
import keyword
import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    SerializationInfo,
    WithJsonSchema,
)

MAX_SECONDS = 31_536_000  # one year: longer than any practical use, and safe in every timer
MAX_COUNT = 1_000_000  # turns, connections: more than one machine serves
MAX_MB = 1_048_576  # one terabyte
MAX_WORKERS = 256  # processes of one instance
MAX_TEXT = 4096  # characters of a URL, a path or a host: the limit of Linux for paths

SNAPSHOT = {"secrets": "plain"}  # serialization context that writes secrets in plain text

_TOKEN = re.compile(r"[!-~]+")  # visible ASCII
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_PRINCIPAL = re.compile(r"token|metadata\..+")
_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_APP_PATH = re.compile(f"{_DOTTED}:{_DOTTED}", re.ASCII)
_UMASK = re.compile(r"0?[0-7]{3}")
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
_PATH_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+")
_MAPPING_METHODS = frozenset({"get", "items", "keys", "values"})


# A URL can contain a password, or a key in its query, so no section shows a URL in its repr.
class Section(BaseModel):
    """The base class of a section: immutable, and without unknown keys."""

    # hide_input: an error that pydantic raises for a section built in code must not show a secret either.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):  # Python and pydantic treat true as 1
        raise ValueError("must be a number")
    return value


_Number = BeforeValidator(_no_boolean)
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False), _Number]
PositiveSeconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False), _Number]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), _Number]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT), _Number]
Megabytes = Annotated[int, Field(ge=1, le=MAX_MB), _Number]
MegabytesOrZero = Annotated[int, Field(ge=0, le=MAX_MB), _Number]
HeadKilobytes = Annotated[int, Field(ge=8, le=1024), _Number]  # of heads of up to 8 KB, see `http1.fast_head`
Port = Annotated[int, Field(ge=0, le=65535), _Number]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


def _app_path(value: str) -> str:
    if not _APP_PATH.fullmatch(value):
        raise ValueError("must be module:name, such as main:app")
    return value


AppPath = Annotated[
    Text, AfterValidator(_app_path), WithJsonSchema({"type": "string", "pattern": f"^{_DOTTED}:{_DOTTED}$"})
]


def _workers(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, str) and value.isdecimal() and len(value) <= 3:  # comes from a ${VAR}
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WORKERS:
        return value
    raise ValueError(f"must be a whole number from 1 to {MAX_WORKERS}, or auto")


CARD_KEYS: Final = ("name", "description", "version", "url")


def _card(value: object) -> dict[str, str] | Literal[False]:
    value = _true_false(value)
    if value is False:
        return False
    if value is True or value is None:
        return {}
    if isinstance(value, dict) and value.keys() <= {*CARD_KEYS}:
        texts = {
            key: text for key, text in value.items() if isinstance(text, str) and 0 < len(text) <= MAX_TEXT
        }
        if texts.keys() == value.keys():
            return texts
    raise ValueError(f"must be true, false, or a mapping with texts for {', '.join(CARD_KEYS)}")


AgentCard = Annotated[
    dict[str, str] | Literal[False],
    PlainValidator(_card),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {
                    "type": "object",
                    "properties": {key: {"type": "string"} for key in CARD_KEYS},
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


Workers = Annotated[
    int | Literal["auto"],
    # A single validator: a union would report an error for each of its branches.
    PlainValidator(_workers),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}]}),
]


def _user(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)  # a number without quotes
    return value


User = Annotated[
    Text, BeforeValidator(_user), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})
]


def _on_off(value: object) -> object:
    return ("on" if value else "off") if isinstance(value, bool) else value


def _true_false(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


# YAML 1.1 reads a bare on or off as a boolean, while a ${VAR} is text. Both must have the same meaning.
OnOffAuto = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(_on_off),
    WithJsonSchema({"enum": ["auto", "on", "off", True, False]}),
]
BooleanOrAuto = Annotated[
    Literal["auto", True, False],
    BeforeValidator(_true_false),
    WithJsonSchema({"enum": ["auto", True, False]}),
]


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, or a port above 65535
        valid = False
    if not valid or not value.isprintable() or " " in value:
        raise ValueError("must be a URL that starts with http:// or https://")
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be a URL that starts with redis://, rediss:// or unix://")
    return value


def _printable_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must be printable ASCII without line breaks, because it is sent in a header")
    return value


def _token(value: SecretStr) -> SecretStr:
    if not _TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("must be one or more visible ASCII characters, without spaces")
    return value


def _reveal(value: SecretStr, info: SerializationInfo) -> str:
    return value.get_secret_value() if info.context == SNAPSHOT else str(value)


_Reveal = PlainSerializer(_reveal, return_type=str)
HttpUrl = Annotated[Text, AfterValidator(_http_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url), _Reveal]
Secret = Annotated[SecretStr, AfterValidator(_printable_secret), _Reveal]
Token = Annotated[SecretStr, AfterValidator(_token), _Reveal]


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("must be a valid HTTP header name")
    return value


def _null_is_empty(value: object) -> object:
    return {} if value is None else value


# YAML reads a mapping whose entries are all commented out as null.
def _null_is_no_pattern(value: object) -> object:
    return () if value is None else value


Patterns = Annotated[tuple[Text, ...], BeforeValidator(_null_is_no_pattern)]
Headers = Annotated[
    dict[Annotated[str, AfterValidator(_header_name)], Secret], BeforeValidator(_null_is_empty)
]
FreeMapping = Annotated[dict[str, JsonValue], BeforeValidator(_null_is_empty)]


def _null_is_no_item(value: object) -> object:
    return [] if value is None else value


def _host_name(value: str) -> str:
    value = value.lower()
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        if not _HOST_NAME.fullmatch(value):
            raise ValueError("must be a host name or an IP address, without a port") from None
    return value


def _origin(value: str) -> str:
    value = value.lower()
    if not _ORIGIN.fullmatch(value) or not frozenset("/?#@*").isdisjoint(value.partition("://")[2]):
        raise ValueError("must be an origin such as https://app.example.com, without a path")
    # Browsers leave out the default port.
    name, _, port = value.rpartition(":")
    return name if (name.partition("://")[0], port) in (("https", "443"), ("http", "80")) else value


HostNames = Annotated[list[Annotated[Text, AfterValidator(_host_name)]], BeforeValidator(_null_is_no_item)]


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be an IP address or a network such as 10.0.0.0/8") from None


def _path_prefix(value: str) -> str:
    if value and not _PATH_PREFIX.fullmatch(value):
        raise ValueError("must be a path such as /_supervisor, without a slash at its end")
    return value


Networks = Annotated[list[Annotated[Text, AfterValidator(_network)]], BeforeValidator(_null_is_no_item)]
PathPrefix = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_path_prefix)]
Origins = Annotated[list[Annotated[Text, AfterValidator(_origin)]], BeforeValidator(_null_is_no_item)]


def _principal(value: str) -> str:
    if not _PRINCIPAL.fullmatch(value):
        raise ValueError("must be token or metadata.<key>")
    return value


Principal = Annotated[Text, AfterValidator(_principal)]


def _umask(value: object) -> str:
    # YAML reads 0027 as the number 23, the same as an unquoted 23.
    if isinstance(value, str) and _UMASK.fullmatch(value):
        return value
    raise ValueError('must be 3 or 4 octal digits in quotes, such as "0027"')


Umask = Annotated[str, PlainValidator(_umask), WithJsonSchema({"type": "string"})]


def _identifier(value: str) -> str:
    if not value.isidentifier() or keyword.iskeyword(value):
        raise ValueError("the name must be an identifier: letters, digits and _, and no digit first")
    return value


def _server_name(value: str) -> str:
    if value.startswith("-") or not value.replace("-", "_").isidentifier():
        raise ValueError("the name must be letters, digits, _ and -, and must not start with a digit or -")
    return value


def _slot_name(value: str) -> str:
    if value.startswith("_") or value in _MAPPING_METHODS:
        taken = ", ".join(sorted(_MAPPING_METHODS))
        raise ValueError(f"the name must not start with _ and must not be one of {taken}")
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]
ServerName = Annotated[str, AfterValidator(_server_name)]  # used in names of tools, not in code
SlotName = Annotated[Identifier, AfterValidator(_slot_name)]  # runtime.models.<name>
