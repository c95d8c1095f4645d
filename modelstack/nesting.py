"""Depth of data: lists and dicts inside each other."""

from __future__ import annotations

from typing import Any


def is_nested_deeper(value: Any, levels: int) -> bool:
    """Return whether more than `levels` lists and dicts of `value` are inside each other.

    It does not recurse: the recursion limit of Python counts the caller's frames too, and libraries change it
    (torch.compile sets 2,000), so what a limit refuses would depend on the process.
    """
    level = [value]
    for _ in range(levels + 1):
        inside = [each for each in level if isinstance(each, dict | list)]
        if not inside:
            return False
        level = [item for each in inside for item in (each.values() if isinstance(each, dict) else each)]
    return True
