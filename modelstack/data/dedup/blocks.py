"""Blocks of items, large enough for a vectorised numpy step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

BLOCK = 1024
Item = TypeVar("Item")


def blocks(items: Iterable[Item], size: int = BLOCK) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block
