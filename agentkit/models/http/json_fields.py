"""Fields of a foreign JSON object: absent and null are the same, a wrong type is an error that names the field."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from agentkit.errors import UnexpectedModelBehavior

FieldT = TypeVar("FieldT")


def optional_field(value: Any, name: str, kind: type[FieldT]) -> FieldT | None:
    """Return `value[name]`; None if it is absent or null.

    Raises:
        UnexpectedModelBehavior: `value` is not an object, or the field is not a `kind`.
    """
    if not isinstance(value, dict):
        raise UnexpectedModelBehavior(
            f"the server's reply has {type(value).__name__} where an object with {name!r} belongs."
        )
    found = cast("dict[str, Any]", value).get(name)
    if found is None or isinstance(found, kind):
        return found
    raise UnexpectedModelBehavior(
        f"the server's reply has {type(found).__name__} in {name!r}, where {kind.__name__} belongs."
    )


def text_field(value: Any, name: str) -> str:
    """Return the string `value[name]`, empty if it is absent; raises like `optional_field`."""
    return optional_field(value, name, str) or ""


def object_field(value: Any, name: str) -> dict[str, Any]:
    """Return the object `value[name]`, empty if it is absent; raises like `optional_field`."""
    return cast("dict[str, Any]", optional_field(value, name, dict) or {})


def list_field(value: Any, name: str) -> list[Any]:
    """Return the list `value[name]`, empty if it is absent; raises like `optional_field`."""
    return cast("list[Any]", optional_field(value, name, list) or [])
