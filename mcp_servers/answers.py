"""Size bound of every answer of every server, for text and structured content alike.

Each tool has limits that fit its results. This bound holds where their product is too large: a name of 200 kB in
each of a thousand rows, a diff of unlimited line length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MAX_BYTES = 200_000
"""Maximum size of an answer's text, and of its structured content as JSON."""
MAX_FAILURE_CHARS = 10_000
"""Maximum characters of an error's text."""
CUT = "(the answer was cut here: {shown:,} of {whole:,} characters; ask for less)"


def bounded_text(text: str) -> str:
    """Return a text of at most `MAX_BYTES` in UTF-8, plus a note if it was cut."""
    if len(text) <= MAX_BYTES // 4 or len(data := text.encode("utf-8", "replace")) <= MAX_BYTES:
        return text
    shown = data[:MAX_BYTES].decode("utf-8", "ignore")
    return f"{shown}\n{CUT.format(shown=len(shown), whole=len(text))}"


def bounded_failure(text: str) -> str:
    """Return a failure text cut in the middle; a quoted argument may have any length."""
    if len(text) <= MAX_FAILURE_CHARS:
        return text
    half = MAX_FAILURE_CHARS // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


def bounded_data(data: dict[str, Any]) -> dict[str, Any]:
    """Return structured content of about `MAX_BYTES` at most; large texts and lists are cut to their beginnings.

    The structure stays the same. A `truncated` field, if there is one, becomes true.
    """
    if _size(data) <= MAX_BYTES:
        return data
    cut = _cut(data, MAX_BYTES)
    return cut | {"truncated": True} if isinstance(data.get("truncated"), bool) else cut


def _size(value: Any) -> int:
    """Return the size of a value as JSON, in bytes."""
    if isinstance(value, Mapping):
        return 2 + sum(4 + _size(key) + _size(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return 2 + sum(2 + _size(one) for one in value)
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _cut(value: Any, budget: int) -> Any:
    """Return a value cut to about `budget` bytes; numbers and keys are never cut."""
    size = _size(value)
    if size <= budget:
        return value
    if isinstance(value, str):
        data = value.encode("utf-8", "replace")
        # Assumes that escapes are spread evenly.
        return data[: max(0, budget - 2) * len(data) // size].decode("utf-8", "ignore")
    if isinstance(value, Mapping):
        return _cut_values(value, budget)
    if isinstance(value, list | tuple):
        return _cut_items(value, budget)
    return value


def _cut_items(items: Sequence[Any], budget: int) -> list[Any]:
    """Return the items that fit, in order; if not even the first fits, that one cut."""
    kept: list[Any] = []
    for item in items:
        size = 2 + _size(item)
        if size > budget:
            break
        kept.append(item)
        budget -= size
    return kept or [_cut(item, budget) for item in items[:1]]


def _cut_values(value: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """Return an object with its small values whole; its large values share the remaining budget evenly."""
    left = budget - 2 - sum(4 + _size(key) for key in value)
    sizes = sorted((_size(one), key) for key, one in value.items())
    shares: dict[str, int] = {}
    for n, (size, key) in enumerate(sizes):
        shares[key] = min(size, max(0, left) // (len(sizes) - n))
        left -= shares[key]
    return {key: _cut(one, shares[key]) for key, one in value.items()}
