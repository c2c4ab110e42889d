"""The fuzz targets in short: their seeds, and seeds with random changes, as a part of `make check`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

PIECE = st.binary(max_size=6) | st.sampled_from([b"\r\n", b'"', b"{}", b"\x00", b"\xff" * 4, b"[" * 40])


# The stand-ins of `ways` are refused by compiled modules.
NAMES = [pytest.param(name, marks=[pytest.mark.as_python] if name == "ways" else []) for name in TARGETS]


@pytest.mark.parametrize("name", NAMES)
def test_the_seeds_of_a_target_are_parsed(name: str) -> None:
    assert TARGETS[name].seeds
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_another_error_than_the_documented_one(name: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(list(TARGETS[name].seeds)) | st.binary(max_size=64))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        removed = data.draw(st.integers(0, 4))
        text = text[:at] + data.draw(PIECE) + text[at + removed :]
    TARGETS[name].run(text)


def test_a_target_finds_a_bug_that_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentscope_supervisor.project import manifest

    def lenient(raw: bytes) -> object:
        raise KeyError("schema_version")

    monkeypatch.setattr(manifest, "decode", lenient)
    with pytest.raises(KeyError):
        TARGETS["manifest"].run(b"{}")
