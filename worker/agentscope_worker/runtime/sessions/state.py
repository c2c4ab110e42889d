"""The state of the objects that an App saves: extracted as JSON values, and restored.

Owns the rules for which objects have a state: objects with `state_dict` and `load_state_dict` (all of
AgentScope 1.x, and any class of the author), pydantic models, and objects whose `state` is a pydantic model
(agents of 2.x). It must not do I/O; `store` stores the extracted state.
"""

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from agentscope_worker.runtime.sessions.stored_form import difference, step

# Fields that a load must not restore: the permission policy belongs to the running host, and an agent's
# permission engine keeps a reference to the object that it was created with.
_NOT_RESTORED = frozenset({"permission_context"})


def extract(name: str, module: Any) -> Any:
    """The state of `module` as JSON values.

    Raises: TypeError that contains `name`, for an object without a state. ValueError for a model that
    `restore` would not set to the same values; the message names the place.
    """
    if callable(getattr(module, "state_dict", None)):
        return module.state_dict()
    return _dump(f"state.{name}", _model_of(name, module))


def restore(name: str, module: Any, state: Any) -> None:
    """Set `module` to `state`, a result of `extract`.

    Raises: TypeError for an object without a state, ValueError if the state does not fit the object.
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


def _dump(place: str, model: BaseModel) -> Any:
    try:
        state = model.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise ValueError(f"{place}: {error}") from error
    values = _restorable(model)
    if {field: each for field, each in state.items() if field not in _NOT_RESTORED} == values:
        return state
    # Some values differ from their JSON. The types of their fields may restore them: a field of type datetime
    # does, a field of type Any does not.
    try:
        restored = _restorable(type(model).model_validate(state))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(step(each) for each in first["loc"])
        raise ValueError(f"{place}{where}: a load would fail: {first['msg']}") from None
    if restored != values:
        raise ValueError(difference(values, restored, place))
    return state


def _restorable(model: BaseModel) -> dict[str, Any]:
    """The values that a load must restore: without computed fields, which may change at any time."""
    return model.model_dump(exclude=set(_NOT_RESTORED), round_trip=True)


def _model_of(name: str, module: Any) -> BaseModel:
    for candidate in (module, getattr(module, "state", None)):
        if isinstance(candidate, BaseModel):
            return candidate
    raise TypeError(
        f"{name}={type(module).__name__}(...) has no state to save: it needs state_dict() and "
        "load_state_dict(), or to be a pydantic model, or an AgentScope agent, memory or toolkit"
    )
