"""Encoding of values between the judge and the program: plain data as JSON, everything else as opaque.

The judge compares only values that it decoded itself, so a program's own `__eq__` never runs there. Types that
compare differently stay distinct (list, tuple, set). Subclasses become their base class, because they compare
equal to it. An iterator is decoded to an iterator over the same items. Any other object is decoded to `Opaque`,
which equals nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

SAFE_INT = 1 << 53
"""Integers from this value on are sent in hexadecimal: Python limits the digits of decimal integers."""
MAX_ITEMS = 100_000
"""Maximum items of an iterator, which may be infinite."""


class Opaque:
    """A value that is not plain data."""

    def __init__(self, text: str) -> None:
        """Store its representation, for explanations."""
        self._text = text

    def __eq__(self, other: object) -> bool:
        """Return False, even for the object itself."""
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return its representation."""
        return self._text


class Name:
    """A value that exists only in the program, identified by its global name there."""

    def __init__(self, name: str) -> None:
        """Store the name."""
        self.name = name


def encode(value: Any) -> Any:
    """Return a value in a form that JSON can represent.

    Raises:
        RecursionError: The value is nested too deeply, or contains itself.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind, encoder in _ENCODERS:
        if isinstance(value, kind):
            return encoder(value)
    if isinstance(value, Iterator):
        items = list(itertools.islice(value, MAX_ITEMS + 1))
        if len(items) <= MAX_ITEMS:
            return {"iterator": [encode(item) for item in items]}
    return {"opaque": f"{type(value).__name__} object"}


def decode(data: Any, resolve: Callable[[str], Any]) -> Any:
    """Return the decoded value; `resolve` returns the object for a name.

    Raises:
        ValueError: The data were not written by `encode`.
        TypeError: An item of a set or a key is not hashable.
        RecursionError: The data are nested too deeply.
    """
    if isinstance(data, list):
        return [decode(item, resolve) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError("not one kind of value")
    ((kind, content),) = data.items()
    if kind == "name" and isinstance(content, str):
        return resolve(content)
    if kind not in _DECODERS:
        raise ValueError(f"no kind of value: {kind!r:.40}")
    decoder, is_text = _DECODERS[kind]
    if isinstance(content, str) != is_text or (not is_text and not isinstance(content, list)):
        raise ValueError(f"a {kind} is not written like this")
    return decoder(content if is_text else [decode(item, resolve) for item in content])


def _encode_items(kind: str) -> Callable[[Iterable[Any]], Any]:
    return lambda values: {kind: [encode(value) for value in values]}


def _encode_int(value: int) -> Any:
    number = int(value)
    return number if -SAFE_INT < number < SAFE_INT else {"int": hex(number)}


def _encode_dict(value: Mapping[Any, Any]) -> Any:
    return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}


_ENCODERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, _encode_int),
    (float, float),
    (str, str),
    (list, lambda value: [encode(item) for item in value]),
    (tuple, _encode_items("tuple")),
    (set, _encode_items("set")),
    (frozenset, _encode_items("frozenset")),
    (dict, _encode_dict),
    (complex, lambda value: {"complex": [value.real, value.imag]}),
    (bytes, lambda value: {"bytes": value.hex()}),
    (range, lambda value: {"range": [encode(part) for part in (value.start, value.stop, value.step)]}),
    (Name, lambda value: {"name": value.name}),
)
_DECODERS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "int": (lambda text: int(text, 16), True),
    "bytes": (bytes.fromhex, True),
    "opaque": (Opaque, True),
    "tuple": (tuple, False),
    "set": (set, False),
    "frozenset": (frozenset, False),
    "dict": (dict, False),
    "iterator": (iter, False),
    "complex": (lambda parts: complex(*parts), False),
    "range": (lambda parts: range(*parts), False),
}
