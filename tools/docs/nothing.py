"""A stand-in for parts of the instance that a generator must pass and that nothing asks. Pure."""

from typing import Any, Final, cast


class _Nothing(dict[Any, Any]):
    """Every attribute and every result is this object again; as a mapping it is empty, as a number 0."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self

    def __float__(self) -> float:
        return 0.0


NOTHING: Final = cast(Any, _Nothing())
