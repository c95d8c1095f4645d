"""Positions inside the parts that only a reply has: the tag of a call, the text between calls, a text answer."""

from __future__ import annotations

from collections.abc import Hashable

from modelstack.toolcalls.grammar.frames import Frame, behind_first, literal, matched
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Calls, Shape, Tagged, Text
from modelstack.toolcalls.grammar.values import Value
from modelstack.toolcalls.marks import is_mark


class Tag(Frame):
    """A position inside the fixed text that selects a tool or opens a structured answer."""

    __slots__ = ("at", "options", "shape")

    def __init__(
        self, shape: Tagged, options: tuple[tuple[str, Shape], ...], at: int, parent: Frame | None
    ) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.options = options
        self.at = at

    @property
    def is_naming(self) -> bool:
        """Whether the character that ends the tool's name is still to be written."""
        return self.shape.is_call and any(self.at <= len(t) - self.shape.n_behind_name for t, _ in self.options)

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.options, self.at)

    def step(self, c: str) -> list[Frame | None]:
        """Narrow the options; after the last character, move to the value that follows."""
        going = tuple(o for o in self.options if o[0][self.at] == c)
        if not going:
            return []
        if len(going[0][0]) == self.at + 1:
            return [Value(going[0][1], literal((self.shape.end,), 0, self.parent))]
        return [Tag(self.shape, going, self.at + 1, self.parent)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the next characters of the options."""
        return frozenset(text[self.at] for text, _ in self.options)

    def rest(self) -> str | None:
        """Return the remainder of the shortest option."""
        options = [t[self.at :] + s.text + self.shape.end for t, s in self.options if s.cost < UNREACHABLE]
        return min(options, key=len, default=None)


class Prose(Frame):
    """A position inside a text answer.

    `progress` is the number of characters, written last, of the text that turns words into calls. `begun` is the
    whole answer while it may still be the beginning of a call or a forbidden beginning; afterwards it is None.
    """

    __slots__ = ("begun", "progress", "shape")

    def __init__(self, shape: Text, progress: int, begun: str | None) -> None:
        """Initialise at this position."""
        super().__init__(None)
        self.shape = shape
        self.progress = progress
        self.begun = begun

    @property
    def watched(self) -> str:
        """The text that an answer must not contain.

        The trigger of calls, or the name of the mark that triggers them.
        """
        return self.shape.spelled or self.shape.trigger

    @property
    def is_free(self) -> bool:
        """Whether any text may follow."""
        return not self.watched and self.begun is None

    @property
    def is_undecided(self) -> bool:
        """Whether the text so far may also be the beginning of a call."""
        trigger = self.shape.trigger
        return bool(trigger and self.begun) and not self.shape.spelled and trigger.startswith(self.begun or " ")

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.progress, self.begun)

    def step(self, c: str) -> list[Frame | None]:
        """Take any character, except where it completes a watched text or a forbidden beginning."""
        if is_mark(c):
            return self._call() if c == self.shape.trigger and self.begun != "" else []
        begun = None if self.begun is None else self.begun + c
        if begun is not None and (begun in self.shape.not_begun or (begun == c and c in self.shape.not_first)):
            return []
        progress = matched(self.watched, self.progress, c) if self.watched else 0
        if self.watched and progress == len(self.watched):
            # A reply that consists of calls only is followed by the frame of the calls themselves.
            return [] if self.shape.spelled or begun == self.watched else self._call()
        if begun is not None and not self._may_turn(begun):
            begun = None
        return [Prose(self.shape, progress, begun)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return all characters that `step` accepts."""
        taken = alphabet
        if self.begun is not None:
            taken = frozenset(c for c in alphabet if self.step(c))
        elif self.shape.spelled and self.progress == len(self.watched) - 1:
            taken = alphabet - {self.watched[-1]}
        return taken | {self.shape.trigger} if self.shape.spelled and self.begun != "" else taken

    def may_end(self) -> bool:
        """Return True: prose may end anywhere."""
        return True

    def rest(self) -> str | None:
        """Return the empty text: prose is always complete."""
        return ""

    def _call(self) -> list[Frame | None]:
        calls = self.shape.calls
        return [] if calls is None else [literal((self.shape.opening,), 0, first_call(calls))]

    def _may_turn(self, begun: str) -> bool:
        texts = (*self.shape.not_begun, *((self.watched,) if self.watched else ()))
        return any(text.startswith(begun) for text in texts)


def first_call(calls: Calls) -> Frame:
    """Return the position before the first call, after the opening text."""
    return Value(calls.item, Between(calls, 1))


class Between(Frame):
    """A position after a call: another call follows, or the reply is complete."""

    __slots__ = ("count", "shape")

    def __init__(self, shape: Calls, count: int) -> None:
        """Initialise after `count` calls."""
        super().__init__(None)
        self.shape = shape
        self.count = count

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.shape, self.count)

    def step(self, c: str) -> list[Frame | None]:
        """Begin the closing text, or the separator before another call."""
        out = behind_first(self.shape.closing, c, None)
        if self.count < self.shape.most:
            another = Value(self.shape.item, Between(self.shape, self.count + 1))
            out += behind_first(self.shape.separator, c, another)
            if self.shape.trailing:
                out += behind_first(self.shape.closing + self.shape.trailing, c, None)
        return out

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the first characters of closing text and separator."""
        both = self.shape.closing[0] + (self.shape.separator[0] if self.count < self.shape.most else "")
        return frozenset(both)

    def rest(self) -> str | None:
        """Return the closing text."""
        return self.shape.closing
