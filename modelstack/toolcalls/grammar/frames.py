"""Places inside the parts of a reply that hold no others: literals, strings, numbers.

A frame is a place inside one value, with a link to the place behind it in what surrounds the value. Frames
never change, so a state is kept by keeping its frames, and undoing is free.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache

from modelstack.toolcalls.grammar.completions import complete_number, complete_string
from modelstack.toolcalls.grammar.regex import Regex
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Numbers, Price, Strings
from modelstack.toolcalls.marks import is_mark

_LONG_NUMBER = 300
"""Digits from which a number may leave the range of doubles."""
_FRACTION_DIGITS = 20
"""Digits behind a number's point; doubles have 17 that count."""
_EXPONENT_DIGITS = 3
"""Of a number; doubles end at e308."""
ESCAPED = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
NUMBER_CHARACTERS = frozenset("0123456789+-.eE")


class Frame:
    """A place inside a value. `parent` is the place just behind that value, None at the end of the reply."""

    __slots__ = ("_key", "_total", "parent")

    def __init__(self, parent: Frame | None) -> None:
        """Stand where the arguments say."""
        self.parent = parent
        self._total: int | None = None
        self._key: Hashable = None

    @property
    def key(self) -> Hashable:
        """Equal for places from which the same texts follow."""
        if self._key is None:
            self._key = (
                type(self).__name__,
                self.own_key(),
                None if self.parent is None else self.parent.key,
            )
        return self._key

    def own_key(self) -> Hashable:
        """Return what tells this place from others of its kind, the frames around it left out."""
        raise NotImplementedError

    def step(self, c: str) -> list[Frame | None]:
        """Return the places after `c`; none when it is not legal here."""
        raise NotImplementedError

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the members of `alphabet` that may come next."""
        raise NotImplementedError

    def may_end(self) -> bool:
        """Say whether the value is complete as it stands."""
        return False

    def rest(self) -> str | None:
        """Return a shortest text that completes this value; None if there is none."""
        raise NotImplementedError

    def plan(self) -> str | None:
        """Return a shortest text that completes the whole reply."""
        parts: list[str] = []
        frame: Frame | None = self
        while frame is not None:
            part = frame.rest()
            if part is None:
                return None
            parts.append(part)
            frame = frame.parent
        return "".join(parts)

    def price(self, price: Price) -> int:
        """Return the tokens that `plan` takes."""
        if self._total is None:
            rest = self.rest()
            below = self.parent.price(price) if self.parent is not None else 0
            self._total = UNREACHABLE if rest is None else below + (price(rest) if rest else 0)
        return self._total


class Literal(Frame):
    """Inside one of a few fixed texts; all of `texts` share the first `at` characters."""

    __slots__ = ("at", "texts")

    def __init__(self, texts: tuple[str, ...], at: int, parent: Frame | None) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.texts = texts
        self.at = at

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.texts, self.at)

    def step(self, c: str) -> list[Frame | None]:
        """Keep the texts that go on with `c`."""
        going = tuple(t for t in self.texts if len(t) > self.at and t[self.at] == c)
        out: list[Frame | None] = []
        if going:
            out.append(literal(going, self.at + 1, self.parent))
        elif self.may_end() and self.parent is not None:
            out += self.parent.step(c)
        return out

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the next characters of the texts, and what may follow a finished one."""
        chars = frozenset(t[self.at] for t in self.texts if len(t) > self.at)
        if self.may_end() and self.parent is not None:
            chars |= self.parent.legal(alphabet)
        return chars

    def may_end(self) -> bool:
        """Say whether one text is finished (1 where 10 is another)."""
        return any(len(t) == self.at for t in self.texts)

    def rest(self) -> str | None:
        """Return the shortest remainder."""
        return min((t[self.at :] for t in self.texts), key=len)


class String(Frame):
    """Inside a string, behind its opening quote. `escape` holds a backslash sequence begun."""

    __slots__ = ("escape", "length", "shape", "states")

    def __init__(
        self, shape: Strings, length: int, states: frozenset[int] | None, escape: str, parent: Frame | None
    ) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape
        self.length = length
        self.states = states
        self.escape = escape

    @property
    def is_free(self) -> bool:
        """True when any character may follow, and the quote too."""
        return self.shape.regex is None and not self.escape and self.length >= self.shape.least

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (
            self.shape,
            self.states,
            self.escape,
            max(0, self.shape.least - self.length),
            None if self.shape.most is None else self.shape.most - self.length,
        )

    def step(self, c: str) -> list[Frame | None]:
        """Take a character, an escape, or the closing quote."""
        if self.escape:
            return self._in_escape(c)
        if c == self.shape.closing:
            return [self.parent] if self._closable() else []
        if c < " " or c == "\x7f" or is_mark(c):
            return []
        if c == "\\":
            return [String(self.shape, self.length, self.states, "\\", self.parent)] if self._room() else []
        return self._take(c)

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the characters that keep length and pattern."""
        closing = self.shape.closing
        if self.escape:
            if self.escape == "\\":
                escaped = escapes(closing)
                return frozenset(c for c in (*escaped, "u") if c == "u" or self._takes(escaped[c]))
            return frozenset(c for c in _HEX if self._in_escape(c))
        closable = self._closable()
        if self._room():
            if self.shape.regex is None:
                return inside_string(alphabet, closable, closing)
            states = self.shape.regex.start if self.states is None else self.states
            return _inside_pattern(self.shape.regex, states, alphabet, closable, closing)
        return frozenset(closing) if closable else frozenset()

    def rest(self) -> str | None:
        """Return the shortest rest with its closing quote."""
        if not self.escape:
            body = complete_string(self.shape, self.states, self.length)
            return None if body is None else body + self.shape.closing
        tails = (
            [*escapes(self.shape.closing)]
            if self.escape == "\\"
            else ["0041"[len(self.escape) - 2 :], "001f"[len(self.escape) - 2 :]]
        )
        best: str | None = None
        for tail in tails:
            frame: Frame | None = self
            for c in tail:
                found = frame.step(c) if frame is not None else []
                frame = found[0] if found else None
            rest = frame.rest() if isinstance(frame, String) else None
            if rest is not None and (best is None or len(tail + rest) < len(best)):
                best = tail + rest
        return best

    def takes_between(self, low: int, high: int) -> bool:
        """Say whether some character of this range of code points, all beyond ASCII, may come next."""
        if self.escape or not self._room():
            return False
        regex = self.shape.regex
        return regex is None or regex.takes_between(regex.start if self.states is None else self.states, low, high)

    def _closable(self) -> bool:
        if self.length < self.shape.least:
            return False
        regex = self.shape.regex
        return regex is None or regex.accepts(regex.start if self.states is None else self.states)

    def _room(self) -> bool:
        return self.shape.most is None or self.length < self.shape.most

    def _takes(self, c: str) -> bool:
        return bool(self._take(c))

    def _take(self, c: str) -> list[Frame | None]:
        """Count one decoded character."""
        if not self._room():
            return []
        states = self.states
        regex = self.shape.regex
        if regex is not None:
            states = regex.step(regex.start if states is None else states, c)
            if not states:
                return []
        return [String(self.shape, self.length + 1, states, "", self.parent)]

    def _in_escape(self, c: str) -> list[Frame | None]:
        escaped = escapes(self.shape.closing)
        if self.escape == "\\" and c in escaped:
            return self._take(escaped[c])
        escape = self.escape + c
        if not (self.escape == "\\" and c == "u") and (c not in _HEX or len(escape) > 6):
            return []
        if len(escape) == 6:
            # Only control characters have this spelling in the convention; the rest are written as they are.
            code = int(escape[2:], 16)
            return self._take(chr(code)) if code < 0x20 or code == 0x7F else []
        if not "007f".startswith(escape[2:].lower()) and escape[2:5] not in ("0", "00", "000", "001"):
            return []
        return [String(self.shape, self.length, self.states, escape, self.parent)]


class Number(Frame):
    """Inside a number."""

    __slots__ = ("shape", "written")

    def __init__(self, shape: Numbers, written: str, parent: Frame | None) -> None:
        """Stand where the arguments say."""
        super().__init__(parent)
        self.shape = shape
        self.written = written

    def own_key(self) -> Hashable:
        """Return what is written and what may follow."""
        return (self.shape, self.written)

    def step(self, c: str) -> list[Frame | None]:
        """Take a digit, point or exponent, or leave the number."""
        if c in NUMBER_CHARACTERS:
            return (
                [Number(self.shape, self.written + c, self.parent)]
                if _may_follow(self.written, c, self.shape)
                else []
            )
        return self.parent.step(c) if self.may_end() and self.parent is not None else []

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return what keeps it a number, and what may follow it."""
        chars = frozenset(c for c in NUMBER_CHARACTERS if _may_follow(self.written, c, self.shape))
        return chars | self.parent.legal(alphabet) if self.may_end() and self.parent is not None else chars

    def may_end(self) -> bool:
        """Say whether the last character is a digit."""
        return self.written[-1].isdigit()

    def may_overflow(self, longest_token: int) -> bool:
        """Say whether a token of so many digits can make the number too long, or leave the range of doubles."""
        most = min(self.shape.most_digits, _FRACTION_DIGITS)
        return "e" in self.written or "E" in self.written or len(self.written) + longest_token > most

    def rest(self) -> str | None:
        """Return digits that complete it."""
        return complete_number(self.shape, self.written)


def literal(texts: tuple[str, ...], at: int, parent: Frame | None) -> Frame | None:
    """Return the place inside a literal; the place behind it, when nothing can follow inside."""
    return parent if all(len(t) == at for t in texts) else Literal(texts, at, parent)


@lru_cache(maxsize=4)
def escapes(closing: str) -> Mapping[str, str]:
    """Return what each letter behind a backslash stands for in a string that ends with `closing`."""
    return {closing if letter == '"' else letter: closing if c == '"' else c for letter, c in ESCAPED.items()}


@lru_cache(maxsize=16)
def inside_string(alphabet: frozenset[str], closable: bool, closing: str = '"') -> frozenset[str]:
    """Return what may stand in a string without pattern."""
    return (alphabet | {closing, "\\"}) if closable else (alphabet | {"\\"}) - {closing}


@lru_cache(maxsize=4096)
def _inside_pattern(
    regex: Regex, states: frozenset[int], alphabet: frozenset[str], closable: bool, closing: str
) -> frozenset[str]:
    """Return what may follow in a string with a pattern."""
    chars = regex.characters(states, alphabet - {closing, "\\"})
    if any(regex.step(states, c) for c in escapes(closing).values()):
        chars.add("\\")
    return frozenset(chars | {closing} if closable else chars)


def _may_follow(written: str, c: str, shape: Numbers) -> bool:
    """Say whether `c` keeps `written` the beginning of a JSON number that is not too long for anything."""
    last = written[-1]
    whole, point, fraction = written.removeprefix("-").partition(".")
    exponent = "e" in written or "E" in written
    if c.isdigit():
        if exponent:
            n_exponent = len(written) - max(written.rfind(mark) for mark in "eE+-") - 1
            return n_exponent < _EXPONENT_DIGITS and math.isfinite(float(written + c))
        if point:
            return len(fraction) < _FRACTION_DIGITS
        return whole != "0" and len(whole) < shape.most_digits and _is_finite(whole, c)
    if c == ".":
        return not shape.integer and not point and not exponent and last.isdigit()
    if c in "eE":
        return not shape.integer and not exponent and last.isdigit()
    return c in "+-" and last in "eE"


def _is_finite(whole: str, c: str) -> bool:
    return len(whole) < _LONG_NUMBER or math.isfinite(float(whole + c))
