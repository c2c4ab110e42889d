"""The URLs of the platform's routes, for any endpoint and any instance id."""

import pytest

from agentscope_supervisor.heartbeat.client import url


@pytest.mark.parametrize(
    "endpoint, instance_id, expected",
    [
        ("http://h", "a", "http://h/instances/a/config"),
        ("http://h/", "a", "http://h/instances/a/config"),
        ("https://h:8443/api", "a", "https://h:8443/api/instances/a/config"),
        ("https://h/api/", "a", "https://h/api/instances/a/config"),
        ("https://h/api//", "a", "https://h/api/instances/a/config"),
        ("https://h/api?key=1&x=%26", "a", "https://h/api/instances/a/config?key=1&x=%26"),
        ("https://h/a%2Fb/?k", "a", "https://h/a%2Fb/instances/a/config?k"),
        ("https://h/api#top", "a", "https://h/api/instances/a/config"),
        ("https://[::1]:80/api", "a", "https://[::1]:80/api/instances/a/config"),
        ("https://me:pa%40ss@h/api", "a", "https://me:pa%40ss@h/api/instances/a/config"),
        ("http://h", "a/b", "http://h/instances/a%2Fb/config"),
        ("http://h", "../../admin", "http://h/instances/..%2F..%2Fadmin/config"),
        ("http://h", "a?b#c%2F", "http://h/instances/a%3Fb%23c%252F/config"),
        ("http://h", "ü 1", "http://h/instances/%C3%BC%201/config"),
        ("http://h", "a\r\nX: b", "http://h/instances/a%0D%0AX%3A%20b/config"),
        ("http://h", "\ud800", "http://h/instances/%3F/config"),
    ],
)
def test_the_instance_id_is_one_path_segment_below_the_endpoint(
    endpoint: str, instance_id: str, expected: str
) -> None:
    assert str(url(endpoint, instance_id, "config")) == expected
