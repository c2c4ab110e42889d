"""The property tests here look as deep as those of the protocol, by the same profiles."""

from tests.protocol import conftest as conftest
