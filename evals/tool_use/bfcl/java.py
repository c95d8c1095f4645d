"""Converts Java literals to values by BFCL's rules; text that does not fit the declared type stays text.

Only the forms of the original are parsed (`java_type_converter.py` of the bfcl-eval wheel): numbers with their
suffixes, `true` and `false`, `new T[]{...}`, `new ArrayList<T>(Arrays.asList(...))` or with `{{ add(...); }}`, and
`new HashMap<K, V>() {{ put("...", ...); }}`. Elements are split at every comma, even inside quotes or brackets.
"""

from __future__ import annotations

import re
from typing import Any

from evals.tool_use.bfcl.literals import MAX_LITERAL_CHARS, UnsupportedTypeError, after_space, number_or_text

_INTEGER = re.compile(r"-?\d+$")
_LONG = re.compile(r"-?\d+[lL]$")
_DOUBLE = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?$")
_FLOAT = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?[fF]$")
_ARRAY = re.compile(r"new\s+\w+\[\]\s*\{(.*?)\}")
_AS_LIST = re.compile(r"new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)")
# The first alternative captures the block's content without leading white space. The second alternative captures
# white space only if nothing else follows. The quantifiers are possessive, so that long runs of spaces in hostile
# input take linear time.
_WITH_ADDS = re.compile(r"new\s+ArrayList<\w*>\(\)\s*+\{\{(?:\s*+(.+?)\}\}|\s+\}\})", re.DOTALL)
_EMPTY_LIST = re.compile(r"new\s+ArrayList<\w*>\(\)")
_ADD = re.compile(r"add\((.+?)\)")
_MAP = re.compile(r"new\s+HashMap<.*?>\s*+\(\)\s*+\{\s*+\{?+\s*+([^}]*)\}", re.DOTALL)
_EMPTY_MAP = re.compile(r"new\s+HashMap<.*?>\s*\(\)")
_AS_TEXT = ("String", "any", "char")


def java_value(text: str, declared: str, inner: str | None = None) -> Any:
    """Return the value of a literal, or the text itself if it is not a literal of the declared type.

    Args:
        text: The model's text.
        declared: BFCL's name of the type.
        inner: The elements' type, for `Array` and `ArrayList`.

    Raises:
        UnsupportedTypeError: the type, or the elements' type, is not supported.
    """
    if len(text) > MAX_LITERAL_CHARS or declared in _AS_TEXT:
        return text
    if declared in ("byte", "short", "integer"):
        return _number(text, text, int) if _INTEGER.match(text) else text
    if declared == "long":
        return _number(text, text.rstrip("\n")[:-1], int) if _LONG.match(text) else text
    if declared == "float":
        return _number(text, text.rstrip("\n")[:-1], float) if _FLOAT.match(text) else text
    if declared == "double":
        return _number(text, text, float) if _DOUBLE.match(text) else text
    if declared == "boolean":
        return text == "true" if text in ("true", "false") else text
    if declared == "Array":
        return _array(text, inner)
    if declared == "ArrayList":
        return _array_list(text, inner)
    if declared == "HashMap":
        return _hash_map(text)
    raise UnsupportedTypeError(f"literals of the Java type {declared!r} are not read")


def _number(text: str, digits: str, read: type) -> Any:
    """Return the number, or the text if it has more digits than Python converts."""
    try:
        return read(digits)
    except ValueError:
        return text


def _array(text: str, inner: str | None) -> Any:
    found = _ARRAY.search(text)
    if found is None:
        return text
    elements = [element.strip() for element in found.group(1).split(",")]
    return [_element(element, inner) for element in elements if element]


def _array_list(text: str, inner: str | None) -> Any:
    found = _AS_LIST.search(text)
    if found is not None:
        return [_list_element(element.strip(), inner) for element in found.group(1).split(",")]
    found = _WITH_ADDS.search(text)
    if found is not None:
        return [_list_element(element.strip(), inner) for element in _ADD.findall(found.group(1) or "")]
    return [] if _EMPTY_LIST.search(text) else text


def _hash_map(text: str) -> Any:
    # The search ends at the last closing brace: no block extends beyond it, and hostile text without a brace costs
    # no search.
    found = _MAP.search(text, 0, text.rfind("}") + 1)
    if found is not None:
        return {key: _untyped(value.strip()) for key, value in _puts(found.group(1))}
    return {} if _EMPTY_MAP.search(text) else text


def _puts(block: str) -> list[tuple[str, str]]:
    """Return key and value of each `put("key", value)`.

    A key ends at the first `",` for which a `)` follows in the line where the value begins. If no `)` follows a
    value, all keys that end before it in its line are dropped except the last, whose value may begin in the next
    line.
    """
    puts: list[tuple[str, str]] = []
    at = block.find('put("')
    while at >= 0:
        start = after = at + len('put("')
        line_end = _find(block, "\n", start)
        quote = block.find('",', start, line_end)
        while quote >= 0:
            value = after_space(block, quote + 2)
            close = block.find(")", value, _find(block, "\n", value))
            if close >= 0:
                puts.append((block[start:quote], block[value:close]))
                after = close + 1
                break
            quote = block.rfind('",', quote + 1, line_end)
        at = block.find('put("', after)
    return puts


def _find(text: str, character: str, start: int) -> int:
    """Return the position of the next occurrence of a character, or the length of the text."""
    found = text.find(character, start)
    return found if found >= 0 else len(text)


def _list_element(text: str, inner: str | None) -> Any:
    """Return an element of an ArrayList.

    Strings lose their first and last character, even if these are not quotes.
    """
    return text[1:-1] if inner in ("char", "String") else _element(text, inner)


def _element(text: str, inner: str | None) -> Any:
    return java_value(text, inner) if inner else _untyped(text)


def _untyped(text: str) -> Any:
    """Return a value whose type is not declared; the type is guessed from the text."""
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    if _LONG.match(text):
        return _number(text, text[:-1], int)
    if _FLOAT.match(text):
        return _number(text, text[:-1], float)
    return number_or_text(text)
