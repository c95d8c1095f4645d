"""Depth of data: lists and dicts inside each other."""

from __future__ import annotations

from typing import Any, cast


def is_nested_deeper(value: Any, levels: int) -> bool:
    """Return whether more than `levels` lists and dicts of `value` are inside each other.

    It does not recurse: the recursion limit of Python counts the caller's frames too, and libraries change it
    (torch.compile sets 2,000), so what a limit refuses would depend on the process.
    """
    level = [value]
    for _ in range(levels + 1):
        inner: list[Any] = []
        is_last = True
        for each in level:
            if isinstance(each, dict):
                is_last = False
                inner += cast("dict[Any, Any]", each).values()
            elif isinstance(each, list):
                is_last = False
                inner += cast("list[Any]", each)
        if is_last:
            return False
        level = inner
    return True
