"""Fields of a foreign JSON object: absent and null are the same, a wrong type is an error that names the field."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from agentkit.errors import UnexpectedModelBehavior

FieldT = TypeVar("FieldT")
DefaultT = TypeVar("DefaultT")


def optional_field(value: Any, name: str, kind: type[FieldT], default: DefaultT) -> FieldT | DefaultT:
    """Return `value[name]`, or `default` where it is absent or null.

    Raises:
        UnexpectedModelBehavior: `value` is no object, or the field is no `kind`.
    """
    if not isinstance(value, dict):
        raise UnexpectedModelBehavior(
            f"the server's reply has {type(value).__name__} where an object with {name!r} belongs."
        )
    found = cast("dict[str, Any]", value).get(name)
    if found is None:
        return default
    if not isinstance(found, kind):
        raise UnexpectedModelBehavior(
            f"the server's reply has {type(found).__name__} in {name!r}, where {kind.__name__} belongs."
        )
    return found
