"""Bounded `repr` of a value of the sandbox.

A value may contain one list many times: 40 nested lists of two members each take little memory and 2**40
characters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from pydantic_monty import MontyClassProxy

from mcp_servers.python.policy import shown

MAX_DEPTH = 100
"""Maximum number of values inside each other that are written."""
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip


class _TooDeep(Exception):
    """A value has more levels than `MAX_DEPTH`."""


def written(value: object, max_chars: int) -> tuple[str, bool]:
    """Return the beginning of a value's `repr`, and whether there is more.

    A value that is too deep, or a number that is too long, gives an explanation instead.
    """
    pieces: list[str] = []
    n_chars = 0
    try:
        for piece in _pieces(value, max_chars, MAX_DEPTH):
            pieces.append(piece)
            n_chars += len(piece)
            if n_chars > max_chars:
                break
    except _TooDeep:
        return "(the value holds too many others inside each other to be written; look at a part of it)", False
    except ValueError as error:  # an int of over 4,300 digits
        return f"(the value cannot be written: {error}; look at a part of it)", False
    return shown("".join(pieces), max_chars)


def _pieces(value: object, max_chars: int, levels: int) -> Iterator[str]:
    """Yield the parts of `repr(value)`; a long text is cut to slightly more than `max_chars`.

    Raises:
        _TooDeep: more than `levels` values are inside each other.
    """
    if levels < 0:
        raise _TooDeep
    kind = type(value)
    if kind is dict:
        yield "{"
        for number, (key, item) in enumerate(cast("dict[object, object]", value).items()):
            yield ", " if number else ""
            yield from _pieces(key, max_chars, levels - 1)
            yield ": "
            yield from _pieces(item, max_chars, levels - 1)
        yield "}"
    elif kind in _BRACKETS and value:
        opening, closing = _BRACKETS[kind]
        items = cast("Collection[object]", value)
        yield opening
        for number, item in enumerate(items):
            yield ", " if number else ""
            yield from _pieces(item, max_chars, levels - 1)
        yield f",{closing}" if kind is tuple and len(items) == 1 else closing
    elif isinstance(value, MontyClassProxy):  # an instance of a class defined in the snippet
        yield f"{kind.__name__}(name={value.name!r}, attributes="
        yield from _pieces(value.attributes, max_chars, levels - 1)
        yield ")"
    else:
        yield repr(value[:max_chars] if isinstance(value, str | bytes) else value)
