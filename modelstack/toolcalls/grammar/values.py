"""The position before a value, and the table of how values begin.

A value may contain values: an array opens its items. Frames therefore call `opened`, which looks up the class of
the shape in `OPENINGS`. `recogniser`, which knows all classes of frames, fills the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from modelstack.toolcalls.grammar.frames import Frame, literal
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Either, Ended, Shape

MAX_FRAMES = 256
"""Maximum number of alternatives followed at the same time; no known tool set needs as many."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Describes how a value of one class of shape begins."""

    step: Callable[[Any, str, Frame | None], list[Frame | None]]
    """Returns the positions after a first character; the last argument is the position behind the value."""
    first: Callable[[Any, frozenset[str]], frozenset[str]]
    """Returns the legal first characters for a shape and an alphabet."""


OPENINGS: dict[type[Shape], Opening] = {}
"""Openings by class of shape, except `Either` and `Ended`, which begin like the shapes inside them."""


class Value(Frame):
    """The position before a value."""

    __slots__ = ("shape",)

    def __init__(self, shape: Shape, parent: Frame | None) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return self.shape

    def step(self, c: str) -> list[Frame | None]:
        """Take the first character of the value."""
        return opened(self.shape, c, self.parent)

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the first characters of the shape."""
        return first_characters(self.shape, alphabet)

    def rest(self) -> str | None:
        """Return the shortest instance of the shape."""
        return self.shape.text if self.shape.cost < UNREACHABLE else None


def opened(shape: Shape, c: str, parent: Frame | None, inside: tuple[Shape, ...] = ()) -> list[Frame | None]:
    """Return the positions after the first character `c` of a value; `inside` holds the unions already entered."""
    if isinstance(shape, Either):
        if shape in inside:
            return []
        inside = (*inside, shape)
        return [frame for option in shape.options for frame in opened(option, c, parent, inside)][:MAX_FRAMES]
    if isinstance(shape, Ended):
        return opened(shape.item, c, literal((shape.end,), 0, parent), inside)
    return OPENINGS[type(shape)].step(shape, c, parent)


def first_characters(shape: Shape, alphabet: frozenset[str], inside: tuple[Shape, ...] = ()) -> frozenset[str]:
    """Return the first characters of a value: members of `alphabet`, and characters of fixed texts."""
    if isinstance(shape, Either):
        if shape in inside:
            return frozenset()
        parts = [first_characters(option, alphabet, (*inside, shape)) for option in shape.options]
        return frozenset().union(*parts)
    if isinstance(shape, Ended):
        return first_characters(shape.item, alphabet, inside)
    return OPENINGS[type(shape)].first(shape, alphabet)
