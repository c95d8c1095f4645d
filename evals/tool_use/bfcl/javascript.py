"""Values of JavaScript literals, as BFCL reads them: text that fits a type becomes a value, any other stays text.

Only the forms that the original knows are read (`js_type_converter.py` of the bfcl-eval wheel): quoted text,
numbers, `1n`, `true` and `false`, `[...]` and `new Array(...)` with one level of arrays in it, and `{key: value}`
up to its first closing brace. Elements are split at every comma, whatever they are.

The original finds arrays of arrays with a regular expression that takes exponential time on text such as
`[[],[],[],...` that never ends; `_nested_array_end` finds the same end in linear time.
"""

from __future__ import annotations

import re
from typing import Any

from evals.tool_use.bfcl.literals import MAX_LITERAL_CHARS, UnsupportedTypeError, number_or_text

_INTEGER = re.compile(r"-?\d+$")
_FLOAT = re.compile(r"-?\d+(\.\d+)?$")
_BIGINT = re.compile(r"-?\d+n\Z")
_ARRAY = re.compile(r"\[(.*?)\]|new\s+Array\((.*?)\)")
_INNER_ARRAY = re.compile(r"\[(.*?)\]")
_OPENS_NESTED = re.compile(r"(?:\[|(new\s+Array\())\s*\[")
_OBJECT = re.compile(r"\{(.*?)\}")
_SPACE = re.compile(r"\s*")


def javascript_value(text: str, declared: str, inner: str | None = None) -> Any:
    """Return the value of a literal, or the text where it is none of the declared type.

    Args:
        text: What the model wrote.
        declared: BFCL's name of the type.
        inner: The elements' type, for `array`.

    Raises:
        UnsupportedTypeError: the type is none that is read.
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
    """Return the inner arrays; their elements are read by their looks."""
    arrays: list[Any] = []
    for index, content in enumerate(_INNER_ARRAY.findall(text)):
        content = content.strip()
        if index == 0 and content.startswith("["):
            content = content[1:]
        arrays.append([_untyped(element.strip()) for element in content.split(",")])
    return arrays


def _nested_array_end(text: str) -> int | None:
    """Return where an array of arrays ends that begins with the text, None where there is none.

    Looked for is `[`, then `[...]` once or more with commas between, then `]`; or `new Array(` likewise with `)`.
    Each inner array ends at the first `]` of its line after which the rest can still follow, and as many inner
    arrays as possible are taken. Read from the back, the rest after each place is known when it is asked for.
    """
    opens = _OPENS_NESTED.match(text)
    if opens is None:
        return None
    closing = ")" if opens.group(1) else "]"
    n = len(text)
    after_space = _skipped_space(text)
    # end_from[i]: end of the match whose rest (comma and further arrays, or the closing) begins at i.
    # bracket_from[i]: end of the match in which the inner array that is open at i ends at its first good `]`.
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
    """Return, for each place, where the white space that begins there ends."""
    ends = list(range(len(text) + 1))
    for i in range(len(text) - 1, -1, -1):
        if _SPACE.fullmatch(text[i]):
            ends[i] = ends[i + 1]
    return ends


def _object(text: str) -> Any:
    """Return the entries up to the first closing brace; so an object within it is cut, as in the original."""
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
    """Split `key: value, key: value`; a comma ends a value only where another key and colon follow it."""
    pairs: list[tuple[str, str]] = []
    at, n = 0, len(text)
    while at < n:
        if text[at] == ":":
            at += 1
            continue
        colon = text.find(":", at)
        if colon < 0:
            break
        start = _SPACE.match(text, colon + 1).end()  # type: ignore[union-attr] # it matches the empty string
        end, following = _value_end(text, start)
        pairs.append((text[at:colon], text[start:end]))
        at = following
    return pairs


def _value_end(text: str, start: int) -> tuple[int, int]:
    """Return where the value that begins at `start` ends, and where the next key begins."""
    comma = text.find(",", start)
    while comma >= 0:
        key = _SPACE.match(text, comma + 1).end()  # type: ignore[union-attr] # it matches the empty string
        # A key has at least one character before its colon; a space before the colon is one.
        for first in (key, key - 1) if key > comma + 1 else (key,):
            next_comma = text.find(",", first)
            colon = text.find(":", first + 1, next_comma if next_comma >= 0 else len(text))
            if colon >= 0:
                return comma, first
        comma = text.find(",", comma + 1)
    return len(text), len(text)


def _untyped(text: str) -> Any:
    """Return a value by its looks, where no type is declared."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if _is_quoted(text) else number_or_text(text)
