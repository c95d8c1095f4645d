"""The shortest completion of a partly written string or number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.convention import render_json
from modelstack.toolcalls.grammar.shapes import Numbers, Strings


def complete_string(shape: Strings, states: frozenset[int] | None, length: int) -> str | None:
    """Return the shortest remainder of a string, escaped and without its closing quote.

    Args:
        shape: Limits of the string.
        states: States of the pattern's automaton after the written part; None at the start.
        length: Number of characters written so far.
    """
    least = max(0, shape.least - length)
    if shape.most is not None and length + least > shape.most:
        return None
    if shape.regex is None:
        return "a" * least
    rest = shape.regex.completion(shape.regex.start if states is None else states, least)
    if rest is None or (shape.most is not None and length + len(rest) > shape.most):
        return None
    if shape.is_raw:
        return rest
    escaped = render_json(rest)[1:-1]
    if shape.closing == '"':
        return escaped
    return escaped.replace('\\"', '"').replace(shape.closing, "\\" + shape.closing)


_SUFFIXES = [
    "",
    *"0512346789",
    *(f"{n:02d}" for n in range(100)),
    *("0" * n for n in range(3, 19)),
    *(f"{n}" for n in range(100, 1000)),
]
"""Digits tried after a number that is out of bounds, the likeliest first."""
_FRACTIONS = ["", ".0", ".5", ".1", ".25", ".01", ".75", ".001"]


def complete_number(shape: Numbers, written: str) -> str | None:
    """Return digits that bring `written` within the bounds; None if a limited number of tries finds none."""
    bounds = shape.bounds
    if written == "" and not (set(bounds) & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}):
        return "0"
    starts = _starts(bounds) if written == "" else [""]
    for fraction in [""] if shape.integer or "." in written or "e" in written.lower() else _FRACTIONS:
        for start in starts:
            for suffix in _SUFFIXES if written or not start.strip("-") else [""]:
                rest = start + suffix + fraction
                if _fits(written + rest, shape):
                    return rest
    return None


def _starts(bounds: Mapping[str, Any]) -> list[str]:
    """Return numbers to try first, close to the bounds."""
    limits = [bounds[k] for k in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if k in bounds]
    step = bounds.get("multipleOf", 1)
    tries: list[float] = [0]
    for limit in limits:
        base = step * (limit // step) if step else limit
        tries += [base, base + step, base - step, limit]
    texts = [str(int(t)) if float(t).is_integer() and abs(t) < 1e18 else repr(float(t)) for t in tries]
    return [*sorted(dict.fromkeys(texts), key=len), "", "-"]


def _fits(text: str, shape: Numbers) -> bool:
    """Return whether `text` is a JSON number within the bounds."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    bounds = shape.bounds
    step = bounds.get("multipleOf")
    return (
        isinstance(value, int | float)
        and (not shape.integer or isinstance(value, int))
        and value >= bounds.get("minimum", float("-inf"))
        and value <= bounds.get("maximum", float("inf"))
        and value > bounds.get("exclusiveMinimum", float("-inf"))
        and value < bounds.get("exclusiveMaximum", float("inf"))
        and (not step or abs(value / step - round(value / step)) < 1e-9)
    )


def _refuse(text: str) -> None:
    raise ValueError(text)
