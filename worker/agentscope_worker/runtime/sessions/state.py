"""The state of the objects that an App saves: taken out of them as JSON values, and put back.

It owns the rules for which object has a state: `state_dict` and `load_state_dict` (everything of
AgentScope 1.x, and any class of the author's), a pydantic model, or an object whose `state` is one
(agents of 2.x). It must not do I/O; `store` stores what it gives.
"""

from typing import Any

from pydantic import BaseModel

# What a stored session must not bring back: policy belongs to the running host, and the permission
# engine of an agent keeps a reference to the object that it was made with.
_NOT_RESTORED = frozenset({"permission_context"})


def take(name: str, module: Any) -> Any:
    """The state of `module`, in JSON values.

    Raises: TypeError, with `name`, for an object that has none.
    """
    if callable(getattr(module, "state_dict", None)):
        return module.state_dict()
    return _model_of(name, module).model_dump(mode="json")


def put_back(name: str, module: Any, state: Any) -> None:
    """Bring `module` to `state`, which `take` gave.

    Raises: TypeError for an object without state, ValueError when the state does not fit it.
    """
    try:
        if callable(getattr(module, "load_state_dict", None)):
            module.load_state_dict(state)
            return
        model = _model_of(name, module)
        restored = type(model).model_validate(state)
        for field in type(model).model_fields:
            if field not in _NOT_RESTORED:
                setattr(model, field, getattr(restored, field))
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"the stored state of {name!r} does not fit it: {error}") from error


def _model_of(name: str, module: Any) -> BaseModel:
    for candidate in (module, getattr(module, "state", None)):
        if isinstance(candidate, BaseModel):
            return candidate
    raise TypeError(
        f"{name}={type(module).__name__}(...) has no state to save: it needs state_dict() and "
        "load_state_dict(), or to be a pydantic model, or an AgentScope agent, memory or toolkit"
    )
