r"""Patterns of untrusted schemas, compiled on first use, in bounded memory.

The Rust regex engine in pydantic-core runs in time linear in the text, but a compiled pattern may take megabytes:
five for `\w{80}`, whose class has hundreds of ranges. So the price of a pattern is estimated before compilation, a
pattern that is too expensive is not enforced, and the least recently used patterns are evicted.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from importlib import import_module
from threading import Lock
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

# The parser of `re` is private, but its interface has not changed since Python 2.
op: Any = import_module("re._constants")
parser: Any = import_module("re._parser")

MAX_PRICE = 6_000
"""Highest price of an enforced pattern; the engine itself stops at 10 MiB. `^[a-z0-9-]{1,64}$` costs 194."""
MAX_KEPT = 20_000
"""Maximum total price of cached patterns, 130 MiB at worst."""
MAX_CHARS = 10_000
_WORD, _DIGIT, _SPACE = 10, 5, 3
"""Prices of Unicode character classes; a single range costs 1."""
_CATEGORIES: dict[Any, int] = {
    **dict.fromkeys((op.CATEGORY_WORD, op.CATEGORY_NOT_WORD), _WORD),
    **dict.fromkeys((op.CATEGORY_DIGIT, op.CATEGORY_NOT_DIGIT), _DIGIT),
    **dict.fromkeys((op.CATEGORY_SPACE, op.CATEGORY_NOT_SPACE), _SPACE),
}
_PROPERTY = re.compile(r"\\[pP](?:\{[^{}]{0,100}\}|[A-Z])")
"""Unicode property class, which Python's parser does not support."""
_COUNT = re.compile(r"\{(\d{1,9})(?:,(\d{1,9})?)?\}")

Matcher = Callable[[str], bool]


class PatternCache:
    """Cache of compiled patterns; shared by all schemas and threads."""

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        """Start empty."""
        self._max_kept = max_kept
        self._kept: OrderedDict[str, tuple[Matcher | None, int]] = OrderedDict()
        self._price = 0
        self._lock = Lock()

    def matcher(self, pattern: str) -> Matcher | None:
        """Return a search function for `pattern`; None if it is too expensive or not supported by the engine."""
        with self._lock:
            if pattern in self._kept:
                self._kept.move_to_end(pattern)
                return self._kept[pattern][0]
        cost = price(pattern)
        matcher = _compiled(pattern) if cost <= MAX_PRICE else None
        with self._lock:
            if pattern not in self._kept and len(pattern) <= MAX_CHARS:
                kept = cost if matcher is not None else 1
                self._kept[pattern] = matcher, kept
                self._price += kept
                while self._price > self._max_kept:
                    _, (_, forgotten) = self._kept.popitem(last=False)
                    self._price -= forgotten
        return matcher


def price(pattern: str) -> int:
    """Estimate the memory of a compiled pattern, in units of 7 kB at worst.

    A counted repetition is compiled once per count. A pattern that Python's parser does not support is priced as
    if all its counts were nested.
    """
    if len(pattern) > MAX_CHARS:
        return MAX_PRICE + 1
    try:
        parsed = parser.parse(_PROPERTY.sub(r"\\w", pattern))
    except (re.error, RecursionError, OverflowError):
        counts = (max(map(int, found.groups("1"))) for found in _COUNT.finditer(pattern))
        return min(MAX_PRICE + 1, math.prod(counts) * (1 + len(pattern)))
    return _price(parsed)


def _price(parsed: Any) -> int:
    total = 0
    for code, argument in parsed:
        if code in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, inside = argument
            total += _price(inside) * max(1, least, 0 if most is op.MAXREPEAT else most)
        elif code is op.SUBPATTERN:
            total += _price(argument[-1])
        elif code is op.BRANCH:
            total += sum(map(_price, argument[1]))
        elif code is op.ATOMIC_GROUP:
            total += _price(argument)
        elif code is op.CATEGORY:
            total += _CATEGORIES[argument]
        elif code is op.IN:
            total += _price(argument)
        else:
            total += 1
        if total > MAX_PRICE:
            return MAX_PRICE + 1
    return total


def unenforced(patterns: Iterable[str], cache: PatternCache, budget: int) -> list[str]:
    """Return the reasons why patterns are not enforced; patterns beyond the budget are checked on first use."""
    lines: list[str] = []
    for pattern in patterns:
        cost = price(pattern)
        if cost > MAX_PRICE:
            lines.append(f"pattern {_short(pattern)} is not enforced: compiled, it would take too much memory")
            continue
        budget -= cost
        if budget < 0:
            break
        if cache.matcher(pattern) is None:
            lines.append(f"pattern {_short(pattern)} is not enforced: a linear-time regex engine cannot run it")
    return lines


def _compiled(pattern: str) -> Matcher | None:
    try:
        compiled = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except (SchemaError, ValueError):  # ValueError: a lone surrogate cannot become UTF-8
        return None
    return compiled.isinstance_python


def _short(pattern: str) -> str:
    text = repr(pattern)
    return text if len(text) <= 80 else text[:77] + "..."
