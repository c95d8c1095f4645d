"""Converts JavaScript literals to values by BFCL's rules; text that does not fit the declared type stays text.

Only the forms of the original are parsed (`js_type_converter.py` of the bfcl-eval wheel): quoted text, numbers,
`1n`, `true` and `false`, `[...]` and `new Array(...)` with one level of inner arrays, and `{key: value}` up to its
first closing brace. Elements are split at every comma, even inside quotes or brackets.

The original finds nested arrays with a regular expression that takes exponential time on unterminated text such as
`[[],[],[],...`. `_nested_array_end` finds the same end in linear time.
"""

from __future__ import annotations

import re
from typing import Any

from evals.tool_use.bfcl.literals import (
    MAX_LITERAL_CHARS,
    SPACE,
    UnsupportedTypeError,
    after_space,
    number_or_text,
)

_INTEGER = re.compile(r"-?\d+$")
_FLOAT = re.compile(r"-?\d+(\.\d+)?$")
_BIGINT = re.compile(r"-?\d+n\Z")
_ARRAY = re.compile(r"\[(.*?)\]|new\s+Array\((.*?)\)")
_INNER_ARRAY = re.compile(r"\[(.*?)\]")
_OPENS_NESTED = re.compile(r"(?:\[|(new\s+Array\())\s*\[")
_OBJECT = re.compile(r"\{(.*?)\}")


def javascript_value(text: str, declared: str, inner: str | None = None) -> Any:
    """Return the value of a literal, or the text itself if it is not a literal of the declared type.

    Args:
        text: The model's text.
        declared: BFCL's name of the type.
        inner: The elements' type, for `array`.

    Raises:
        UnsupportedTypeError: the type is not supported.
    """
    if len(text) > MAX_LITERAL_CHARS or declared == "any":
        return text
    if declared == "String":
        return text[1:-1] if _is_quoted(text) else text
    if declared == "integer":
        return number_or_text(text) if _INTEGER.match(text) else text
    if declared == "float":
        return float(text) if _FLOAT.match(text) else text
    if declared == "Bigint":
        return number_or_text(text[:-1]) if _BIGINT.match(text) else text
    if declared == "Boolean":
        return text == "true" if text in ("true", "false") else text
    if declared == "dict":
        return _object(text.strip())
    if declared == "array":
        return _array(text.strip(), inner)
    raise UnsupportedTypeError(f"literals of the JavaScript type {declared!r} are not read")


def _is_quoted(text: str) -> bool:
    return any(text.startswith(quote) and text.endswith(quote) for quote in "\"'")


def _array(text: str, inner: str | None) -> Any:
    end = _nested_array_end(text)
    if end is not None:
        return _array_of_arrays(text[:end])
    found = _ARRAY.match(text)
    if found is None:
        return text
    content = (found.group(1) if found.group(1) is not None else found.group(2)).strip()
    elements = [element.strip() for element in content.split(",")] if content else []
    if not inner:
        return [_untyped(element) for element in elements]
    try:
        return [javascript_value(element, inner) for element in elements]
    except UnsupportedTypeError:
        return text


def _array_of_arrays(text: str) -> list[Any]:
    """Return the inner arrays; the types of their elements are guessed from the text."""
    arrays: list[Any] = []
    for index, content in enumerate(_INNER_ARRAY.findall(text)):
        content = content.strip()
        if index == 0 and content.startswith("["):
            content = content[1:]
        arrays.append([_untyped(element.strip()) for element in content.split(",")])
    return arrays


def _nested_array_end(text: str) -> int | None:
    """Return the end of a nested array at the start of the text, or None if there is none.

    The form is `[`, one or more inner arrays `[...]` separated by commas, then `]`; or `new Array(` with `)`
    likewise. Each inner array ends at the first `]` of its line after which the rest can still match, and as many
    inner arrays as possible are taken. The scan runs from the back, so the match of the rest is known at each
    position.
    """
    opens = _OPENS_NESTED.match(text)
    if opens is None:
        return None
    closing = ")" if opens.group(1) else "]"
    n = len(text)
    after_space = _skipped_space(text)
    # end_from[i]: end of the match whose remainder (comma and further arrays, or the closing bracket) begins at i.
    # bracket_from[i]: end of the match whose inner array is open at i and ends at its first valid `]`.
    end_from: list[int | None] = [None] * (n + 1)
    bracket_from: list[int | None] = [None] * (n + 1)
    for i in range(n - 1, opens.end() - 1, -1):
        character = text[i]
        if character == ",":
            inner = after_space[i + 1]
            if inner < n and text[inner] == "[":
                end_from[i] = bracket_from[inner + 1]
        if end_from[i] is None and character == closing:
            end_from[i] = i + 1
        if character == "]":
            bracket_from[i] = end_from[after_space[i + 1]]
        if bracket_from[i] is None and character != "\n":
            bracket_from[i] = bracket_from[i + 1]
    return bracket_from[opens.end()]


def _skipped_space(text: str) -> list[int]:
    """Return, for each position, the end of the white space that begins there."""
    ends = list(range(len(text) + 1))
    for i in range(len(text) - 1, -1, -1):
        if SPACE.fullmatch(text[i]):
            ends[i] = ends[i + 1]
    return ends


def _object(text: str) -> Any:
    """Return the entries up to the first closing brace; a nested object is cut there, as in the original."""
    if text == "{}":
        return {}
    found = _OBJECT.match(text)
    if found is None:
        return text
    entries: dict[str, Any] = {}
    for key, value in _pairs(found.group(1)):
        value = value.strip()
        if value.startswith("[") and value.endswith("]"):
            entries[key.strip().strip("'\"")] = _array(value, None)
        else:
            entries[key.strip().strip("'\"")] = _untyped(value.strip("'\""))
    return entries


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split `key: value, key: value`; a comma ends a value only if another key and colon follow."""
    pairs: list[tuple[str, str]] = []
    at, n = 0, len(text)
    while at < n:
        if text[at] == ":":
            at += 1
            continue
        colon = text.find(":", at)
        if colon < 0:
            break
        start = after_space(text, colon + 1)
        end, following = _value_end(text, start)
        pairs.append((text[at:colon], text[start:end]))
        at = following
    return pairs


def _value_end(text: str, start: int) -> tuple[int, int]:
    """Return the end of the value that begins at `start`, and the start of the next key."""
    comma = text.find(",", start)
    while comma >= 0:
        key = after_space(text, comma + 1)
        # A key has at least one character before its colon; a space counts as one.
        for first in (key, key - 1) if key > comma + 1 else (key,):
            next_comma = text.find(",", first)
            colon = text.find(":", first + 1, next_comma if next_comma >= 0 else len(text))
            if colon >= 0:
                return comma, first
        comma = text.find(",", comma + 1)
    return len(text), len(text)


def _untyped(text: str) -> Any:
    """Return a value whose type is not declared; the type is guessed from the text."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if _is_quoted(text) else number_or_text(text)
