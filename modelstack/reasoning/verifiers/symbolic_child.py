"""Comparison function that `symbolic` runs in its child process; importing math-verify takes seconds."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

logging.disable(logging.WARNING)  # math-verify warns that its timeouts are off; the parent's limits apply
_library: Any = importlib.import_module(
    "math_verify"
)  # an optional package, possibly missing during type checking


def answer_question(question: Mapping[str, str]) -> bool:
    """Return whether a gold can be read; with an answer, whether it equals the gold."""
    golds = _expressions(question["gold"])
    if "answer" not in question or not golds:
        return bool(golds)
    try:
        return bool(_library.verify(list(golds), list(_expressions(question["answer"])), timeout_seconds=None))
    except RecursionError:
        return False


@lru_cache(maxsize=256)
def _expressions(text: str) -> tuple[Any, ...]:
    """Return the expressions that math-verify reads in a text: as LaTeX, else as plain arithmetic."""
    bare = text.strip().removeprefix("$").removesuffix("$").strip()
    for written, config in (
        (f"${bare}$", _library.LatexExtractionConfig()),
        (bare, _library.ExprExtractionConfig()),
    ):
        try:
            found = _library.parse(written, [config], fallback_mode="no_fallback", parsing_timeout=None)
        except RecursionError:
            continue
        if found:
            return tuple(found)
    return ()


answer_question(
    {"gold": "\\frac{x}{2}", "answer": "0.5x"}
)  # the first use builds the parser's tables, before the forks
