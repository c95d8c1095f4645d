"""Positions inside arguments that are written parameter by parameter, not as a JSON object."""

from __future__ import annotations

from collections.abc import Hashable

from modelstack.toolcalls.conventions.parameters import NOT_IN_BARE_KEYS
from modelstack.toolcalls.grammar.frames import Frame, behind_first
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Parameters, Property
from modelstack.toolcalls.grammar.values import Value
from modelstack.toolcalls.marks import is_mark


class ParameterList(Frame):
    """A position between the parameters of a call: after their opening text if `is_first`, else after a value."""

    __slots__ = ("is_first", "next_index", "shape")

    def __init__(self, shape: Parameters, next_index: int, is_first: bool, parent: Frame | None) -> None:
        """Initialise at this position; `next_index` is the index of the first parameter that may still come."""
        super().__init__(parent)
        self.shape = shape
        self.next_index = next_index
        self.is_first = is_first

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.shape, self.next_index, self.is_first)

    def step(self, c: str) -> list[Frame | None]:
        """Begin the key of a parameter, or the closing text."""
        out: list[Frame | None] = []
        for at in range(self.next_index, len(self.shape.properties)):
            one = self.shape.properties[at]
            behind = ParameterList(self.shape, at + 1, False, self.parent)
            out += behind_first(self._before + one.key, c, Value(one.shape, behind))
            if one.required:
                break
        if self.shape.extra is not None:
            key = BareKey(self.shape, "", ParameterList(self.shape, self.next_index, False, self.parent))
            out += behind_first(self._before, c, key) if self._before else key.step(c)
        return out if self._owed() else out + behind_first(self.shape.closing, c, self.parent)

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the first characters of all texts that `step` accepts."""
        before, is_open = self._before, self.shape.extra is not None
        texts = [before + one.key for one in self.shape.properties[self.next_index :]]
        texts += [self.shape.closing, *([before] if is_open and before else ())]
        chars = frozenset(c for c in {text[0] for text in texts} if self.step(c))
        return chars | (alphabet - NOT_IN_BARE_KEYS) if is_open and not before else chars

    def rest(self) -> str | None:
        """Return the missing required parameters and the closing text."""
        owed = self._owed()
        if any(one.shape.cost >= UNREACHABLE for one in owed):
            return None
        before = self._before if owed else ""
        return before + self.shape.separator.join(one.key + one.shape.text for one in owed) + self.shape.closing

    @property
    def _before(self) -> str:
        return "" if self.is_first else self.shape.separator

    def _owed(self) -> list[Property]:
        return [one for one in self.shape.properties[self.next_index :] if one.required]


class BareKey(Frame):
    """A position inside the name of an undeclared member; `parent` is the position behind its value."""

    __slots__ = ("shape", "written")

    def __init__(self, shape: Parameters, written: str, parent: Frame) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.written = written

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.shape, self.written)

    def step(self, c: str) -> list[Frame | None]:
        """Continue the name; after its end, move to the value."""
        if c == self.shape.key_end[0] and self._is_whole(self.written) and self.shape.extra is not None:
            return behind_first(self.shape.key_end, c, Value(self.shape.extra, self.parent))
        return [] if c in NOT_IN_BARE_KEYS or is_mark(c) else [BareKey(self.shape, self.written + c, self.behind)]

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the characters that a name may contain, and the first character after it."""
        return (alphabet - NOT_IN_BARE_KEYS) | frozenset(c for c in self.shape.key_end[0] if self.step(c))

    def rest(self) -> str | None:
        """Return a shortest end of an undeclared name, with a value."""
        extra = self.shape.extra
        if extra is None or extra.cost >= UNREACHABLE:
            return None
        tails = ("", "a", *(f"a{i}" for i in range(len(self.shape.properties) + 1)))
        tail = next(tail for tail in tails if self._is_whole(self.written + tail))
        return tail + self.shape.key_end + extra.text

    @property
    def behind(self) -> Frame:
        """The position behind the value."""
        assert self.parent is not None
        return self.parent

    def _is_whole(self, name: str) -> bool:
        return bool(name) and name not in self.shape.names
