"""Unified diffs in bounded time: difflib is quadratic, and text from a model or a server may have any length."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

MAX_LINES = 1_000
"""Maximum number of lines of either side that are matched; the differing lines of longer texts are only listed."""
_LINES_SHOWN = 100


def line_diff(old: Sequence[str], new: Sequence[str], *, old_name: str, new_name: str) -> list[str]:
    """Return a unified diff with one line of context; for longer texts the first differing lines."""
    first = _n_equal(old, new)
    last = _n_equal(old[first:][::-1], new[first:][::-1])
    before, after = old[first : len(old) - last], new[first : len(new) - last]
    if not before and not after:
        return []
    if max(len(old), len(new)) <= MAX_LINES:
        return list(difflib.unified_diff(old, new, old_name, new_name, lineterm="", n=1))
    lines = [f"--- {old_name}", f"+++ {new_name}", f"@@ -{first + 1},{len(before)} +{first + 1},{len(after)} @@"]
    for sign, several in (("-", before), ("+", after)):
        lines += [sign + line for line in several[:_LINES_SHOWN]]
        lines += [f"... {len(several) - _LINES_SHOWN} more lines"] if len(several) > _LINES_SHOWN else []
    return lines


def _n_equal(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of equal lines at the beginning."""
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n
