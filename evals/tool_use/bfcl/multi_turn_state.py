"""Converts simulated objects to plain data for comparison: their public attributes.

The original compares live objects of one process with `==`. Plain data gives the same result, because equality of
the few classes inside a simulator (files and directories) is equality of their public attributes without a
directory's parent. Plain data can also be stored with a run, and ends where a directory was copied into itself.
"""

from __future__ import annotations

from typing import Any

_UPWARD = frozenset({"parent"})
"""Attributes that point up a tree; not part of equality."""
MAX_DEPTH = 200
"""Maximum nesting depth that is compared; no scenario has more than a dozen levels."""
CYCLE, TOO_DEEP = "<contains itself>", "<too deep>"


def attributes(instance: Any) -> dict[str, Any]:
    """Return the public attributes of an object as plain data.

    Dicts, lists, tuples and sets keep their type, so that Python's equality compares two results. A nested object
    becomes a dict of its class name and public attributes.
    """
    return {key: _plain(value, ()) for key, value in vars(instance).items() if not key.startswith("_")}


def to_json(value: Any) -> Any:
    """Convert plain data to JSON values: sets are sorted, tuples become lists, keys become text."""
    match value:
        case dict():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case set() | frozenset():
            return sorted((to_json(item) for item in value), key=repr)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def differences(model: dict[str, dict[str, Any]], reference: dict[str, dict[str, Any]]) -> list[str]:
    """Return the attributes in which two states differ, as `Class.attribute`.

    Only the reference's attributes count.
    """
    return [
        f"{class_name}.{key}"
        for class_name, expected in reference.items()
        for key, value in expected.items()
        if key not in model[class_name] or model[class_name][key] != value
    ]


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        return CYCLE
    if len(above) >= MAX_DEPTH:
        return TOO_DEEP
    below = (*above, id(value))
    match value:
        case dict():
            return {key: _plain(item, below) for key, item in value.items()}
        case list():
            return [_plain(item, below) for item in value]
        case tuple():
            return tuple(_plain(item, below) for item in value)
        case set():
            return set(value)
        case _ if hasattr(value, "__dict__") and not isinstance(value, type):
            public = {k: v for k, v in vars(value).items() if not k.startswith("_") and k not in _UPWARD}
            return {"class": type(value).__name__, **{k: _plain(v, below) for k, v in public.items()}}
        case _:
            return value
