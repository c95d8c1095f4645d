"""Parses an answer and compares it with the expected value.

Parsing. Strict: the whole text is one JSON value, as for `json.loads` in an application (NaN and Infinity are not
JSON). Lenient: otherwise the content of the first code fence, otherwise the first JSON object or list in the text.

Comparison. A value is the set of its leaves; a leaf is a path and a scalar. Two strings are equal after NFKC,
plain quotes and dashes for typographic ones, case folding, single spaces for white space, and stripping. Numbers
are equal by value (1 is 1.0), but a number never equals a string, and true is not 1. A null property counts as
absent. Exact match: the same leaves, lists in order. Field F1: precision and recall over leaves, ignoring
positions in lists, so that one missing element costs one leaf; this is the value-level measure of slot filling.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_STARTS = 32
"""Maximum number of positions at which JSON is searched; enough for prose, and a bound on the cost of noise."""

_FENCE = re.compile(r"```[a-zA-Z0-9]*[ \t]*\r?\n?(.*?)```", re.DOTALL)
_START = re.compile(r"[\[{]")
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"})

Path = tuple[str | int, ...]
Leaf = tuple[str, Any]
"""Type name and normalised value of a scalar."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of parsing; `value` is meaningful only if `parsed`."""

    parsed: bool
    value: Any = None


def read_strictly(text: str) -> Reading:
    """Parse a text that must be JSON as a whole."""
    try:
        return Reading(True, json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return Reading(False)


def read_leniently(text: str) -> Reading:
    """Parse the JSON in a text: the whole text, the first code fence, or the first object or list."""
    whole = read_strictly(text)
    if whole.parsed:
        return whole
    fence = _FENCE.search(text)
    if fence is not None:
        inside = read_strictly(fence.group(1))
        if inside.parsed:
            return inside
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for n, start in enumerate(_START.finditer(text)):
        if n == MAX_STARTS:
            break
        try:
            return Reading(True, decoder.raw_decode(text, start.start())[0])
        except (ValueError, RecursionError):
            continue
    return Reading(False)


def same(expected: Any, answer: Any) -> bool:
    """Return whether two values match exactly, by the rules of this module."""
    return dict(leaves(expected)) == dict(leaves(answer))


def field_f1(expected: Any, answer: Any) -> float:
    """Return the F1 of the answer's leaves; two values without leaves score 1."""
    wanted, given = (Counter(_without_positions(value)) for value in (expected, answer))
    n_shared = sum((wanted & given).values())
    n_all = sum(wanted.values()) + sum(given.values())
    return 2 * n_shared / n_all if n_all else 1.0


def leaves(value: Any) -> Iterator[tuple[Path, Leaf]]:
    """Yield path and scalar of every leaf; an empty object or list inside a value counts as a leaf."""
    waiting: list[tuple[Path, Any]] = [((), value)]  # no recursion, because a model may nest arbitrarily deeply
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            inside = [((*path, str(key)), sub) for key, sub in node.items() if sub is not None]
            if not inside and path:
                yield path, ("empty", "object")
            waiting += inside
        elif isinstance(node, list):
            if not node:
                yield path, ("empty", "list")
            waiting += [((*path, i), sub) for i, sub in enumerate(node)]
        else:
            yield path, _normal(node)


def _without_positions(value: Any) -> Iterator[tuple[Path, Leaf]]:
    for path, leaf in leaves(value):
        yield tuple("[]" if isinstance(part, int) else part for part in path), leaf


def _normal(scalar: Any) -> Leaf:
    if isinstance(scalar, bool):
        return "boolean", scalar
    if isinstance(scalar, int | float):
        return "number", scalar
    if isinstance(scalar, str):
        plain = unicodedata.normalize("NFKC", scalar).translate(_PLAIN)
        return "string", " ".join(plain.casefold().split())
    return "null", None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
