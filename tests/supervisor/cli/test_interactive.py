"""The terminal of a developer, without a terminal: its texts, and when a browser opens."""

import pytest

from agentscope_supervisor.cli import interactive

URL = "http://127.0.0.1:8080"


def test_the_block_has_one_line_of_addresses_and_one_of_keys() -> None:
    assert interactive.block(URL, 2.14, f"{URL}/console#token=x", has_keys=True, bold=False) == (
        "\n"
        "  Ready in 2.1 s · http://127.0.0.1:8080/console#token=x · API http://127.0.0.1:8080/invoke\n"
        "  o open the console   r replace the worker   c clear   q quit\n"
        "\n"
    )
    assert interactive.block(URL, 2.0, None, has_keys=False, bold=True) == (
        "\n  \x1b[1mReady in 2.0 s\x1b[0m · API http://127.0.0.1:8080/invoke\n\n"
    )


@pytest.mark.parametrize(
    "platform, variables, opens",
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"BROWSER": "firefox"}, True),
        ("darwin", {}, True),
    ],
)
def test_a_browser_opens_only_where_there_is_a_screen(
    platform: str, variables: dict[str, str], opens: bool
) -> None:
    assert interactive.can_open_browser(variables, platform) is opens
