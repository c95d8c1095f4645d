"""Things in blocks that are worth a step in numpy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

BLOCK = 1024
Item = TypeVar("Item")


def blocks(items: Iterable[Item], size: int = BLOCK) -> Iterator[list[Item]]:
    """Return the items, so many at a time."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block
