"""Positions inside a text without escapes, which ends at the first occurrence of its closing text."""

from __future__ import annotations

from collections.abc import Hashable

from modelstack.toolcalls.grammar.completions import complete_string
from modelstack.toolcalls.grammar.frames import Frame, matched
from modelstack.toolcalls.grammar.shapes import Strings
from modelstack.toolcalls.marks import is_mark


class RawText(Frame):
    """A position inside a text without escapes.

    `progress` is the number of characters of the closing text that were written last. They may turn out to belong
    to the text, so `held` keeps the states of the pattern before each of them. If a mark closes the text, the
    characters are those of the mark's name, which the text must not contain.
    """

    __slots__ = ("held", "length", "progress", "shape", "states")

    def __init__(
        self,
        shape: Strings,
        parent: Frame | None,
        length: int = 0,
        progress: int = 0,
        states: frozenset[int] | None = None,
        held: tuple[frozenset[int] | None, ...] = (),
    ) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.length = length
        self.progress = progress
        self.states = states
        self.held = held

    @property
    def is_free(self) -> bool:
        """Whether any character may follow that does not close the text."""
        shape = self.shape
        return shape.regex is None and shape.most is None

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        shape = self.shape
        left = None if shape.most is None else shape.most - self.length
        return (shape, self.progress, self.states, self.held, max(0, shape.least - self.length), left)

    def step(self, c: str) -> list[Frame | None]:
        """Take a character of the text or of the closing text."""
        shape = self.shape
        if is_mark(c):
            return [self.parent] if c == shape.closing and self._may_close(self.states, self.length) else []
        watched = shape.spelled or shape.closing
        progress = matched(watched, self.progress, c)
        held = (*self.held, self.states)[len(self.held) + 1 - progress :]
        length = self.length + 1
        if progress == len(watched):
            may_close = not shape.spelled and self._may_close(held[0], length - progress)
            return [self.parent] if may_close else []
        may_yet_close = bool(progress) and not shape.spelled
        if shape.most is not None and length - (progress if may_yet_close else 0) > shape.most:
            return []
        states = self.states
        if shape.regex is not None:
            states = shape.regex.step(shape.regex.start if states is None else states, c)
            if not states and not (may_yet_close and self._may_close(held[0], length - progress)):
                return []
        return [RawText(shape, self.parent, length, progress, states, held)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return all characters that `step` accepts."""
        closing = self.shape.closing
        ends = closing if self.shape.spelled else closing[self.progress]
        return frozenset(c for c in alphabet | {ends} if self.step(c))

    def rest(self) -> str | None:
        """Return the shortest remainder with the closing text."""
        shape, closing = self.shape, self.shape.closing
        if self.progress and not shape.spelled and self._may_close(self.held[0], self.length - self.progress):
            return closing[self.progress :]
        if self.states is not None and not self.states:
            return None
        body = complete_string(shape, self.states, self.length)
        return None if body is None else body + closing

    def takes_between(self, low: int, high: int) -> bool:
        """Return whether some character of this non-ASCII range of code points may come next."""
        shape = self.shape
        if shape.most is not None and self.length >= shape.most:
            return False
        states = None if shape.regex is None else shape.regex.start if self.states is None else self.states
        return shape.regex is None or (states is not None and shape.regex.takes_between(states, low, high))

    def _may_close(self, states: frozenset[int] | None, length: int) -> bool:
        shape = self.shape
        if length < shape.least or (shape.most is not None and length > shape.most):
            return False
        return shape.regex is None or shape.regex.accepts(shape.regex.start if states is None else states)
