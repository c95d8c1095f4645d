"""What an answer says, and how far it agrees with what was expected.

Reading. Strict: the whole text is one JSON value, as `json.loads` of an application would have it (NaN and
Infinity are no JSON). Lenient: else the content of the first code fence, else the first JSON object or list in the
text.

Comparing. A value is the set of its leaves, each a path and a scalar. Two strings are the same after NFKC,
typographic quotes and dashes made plain, case folded, runs of white space made one space, and the ends stripped.
Numbers are the same by value (1 is 1.0), but a number is no string and true is not 1. A property that is null
counts as absent. Exact match: the same leaves, lists in order. Field F1: precision and recall over leaves, where
the position in a list does not count, so one missing element costs one leaf; the value-level measure of slot
filling.
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
"""Places at which JSON is looked for in a text: enough for prose, and a limit on what noise can cost."""

_FENCE = re.compile(r"```[a-zA-Z0-9]*[ \t]*\r?\n?(.*?)```", re.DOTALL)
_START = re.compile(r"[\[{]")
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"})

Path = tuple[str | int, ...]
Leaf = tuple[str, Any]
"""The kind of a scalar, and the scalar normalised."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A JSON value, if there was one."""

    parsed: bool
    value: Any = None


def read_strictly(text: str) -> Reading:
    """Read a text that must be JSON as a whole."""
    try:
        return Reading(True, json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return Reading(False)


def read_leniently(text: str) -> Reading:
    """Read the JSON in a text: the whole, the first code fence, or the first object or list."""
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
    """Say whether two values match exactly, under the rules above."""
    return dict(leaves(expected)) == dict(leaves(answer))


def field_f1(expected: Any, answer: Any) -> float:
    """Return the F1 of the answer's leaves; two values without leaves agree."""
    wanted, given = (Counter(_without_positions(value)) for value in (expected, answer))
    n_shared = sum((wanted & given).values())
    n_all = sum(wanted.values()) + sum(given.values())
    return 2 * n_shared / n_all if n_all else 1.0


def leaves(value: Any) -> Iterator[tuple[Path, Leaf]]:
    """Yield path and scalar of every leaf; an empty object or list inside a value is a leaf of its own."""
    waiting: list[tuple[Path, Any]] = [((), value)]  # no recursion: a model may nest as deep as it likes
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
    raise ValueError(f"{constant} is no JSON")
