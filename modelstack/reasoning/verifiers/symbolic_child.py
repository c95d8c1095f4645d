"""What `symbolic` runs in its child process; the import takes seconds, as math-verify comes with it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

logging.disable(logging.WARNING)  # math-verify says that its time-outs are off; the parent's are on
_library: Any = importlib.import_module("math_verify")  # an extra: not there where this is type-checked


def answer_question(question: Mapping[str, str]) -> bool:
    """Return whether a gold can be read, or, where an answer is given too, whether it equals the gold."""
    golds = _expressions(question["gold"])
    if "answer" not in question or not golds:
        return bool(golds)
    try:
        return bool(_library.verify(list(golds), list(_expressions(question["answer"])), timeout_seconds=None))
    except RecursionError:
        return False


@lru_cache(maxsize=256)
def _expressions(text: str) -> tuple[Any, ...]:
    """Return what math-verify reads in a text: as LaTeX, else as plain arithmetic."""
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


answer_question({"gold": "\\frac{x}{2}", "answer": "0.5x"})  # the parser's tables are built with its first use
