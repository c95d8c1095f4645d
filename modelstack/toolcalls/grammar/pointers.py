"""JSON pointers (RFC 6901) into schemas: resolving local `$ref`s, naming places, removing keywords.

A `$ref` is resolved only inside its own document. Nothing is ever fetched: a remote reference is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


class SchemaReferenceError(ValueError):
    """A `$ref` is remote or leads nowhere."""


def join(pointer: str, *parts: str | int) -> str:
    """Append escaped reference tokens to a pointer."""
    for part in parts:
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def split(pointer: str) -> list[str]:
    """Return the reference tokens of a pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def get(document: Any, pointer: str) -> Any:
    """Return the value at `pointer`.

    Raises:
        KeyError: nothing is there.
    """
    value = document
    for part in split(pointer):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(pointer)
    return value


def target(reference: str, root: Any) -> Any:
    """Return the schema that a local `$ref` names: `#`, `#/json/pointer`, or `#anchor`.

    Raises:
        SchemaReferenceError: the reference is remote or leads nowhere.
    """
    if not reference.startswith("#"):
        raise SchemaReferenceError(
            f"$ref {reference!r} is remote; references are never fetched; copy the schema to $defs"
        )
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        found = _anchored(root, fragment)
    else:
        try:
            found = get(root, fragment)
        except KeyError:
            found = None
    if not isinstance(found, Mapping | bool):
        raise SchemaReferenceError(f"$ref {reference!r} does not lead to a schema")
    return found


def resolve(schema: Any, root: Any) -> Any:
    """Return the first schema along the `$ref`s of `schema` that is not a reference.

    An open schema for a cycle.
    """
    seen: set[str] = set()
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
        reference = schema["$ref"]
        if reference in seen:
            return {}
        seen.add(reference)
        try:
            schema = target(reference, root)
        except SchemaReferenceError:
            return {}
    return schema


def _anchored(value: Any, anchor: str) -> Any:
    """Return the first schema that carries `$anchor`."""
    if isinstance(value, Mapping):
        if value.get("$anchor") == anchor:
            return value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            found = _anchored(part, anchor)
            if found is not None:
                return found
    return None
