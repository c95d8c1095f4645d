"""Positions inside the parts of a reply that contain no other parts: literals, strings, numbers.

A frame is a position inside one value, with a link to the position right behind that value. Frames are
immutable, so a state is saved by keeping its frames, and undo costs nothing.
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
"""Number of digits from which a number may exceed the range of doubles."""
_FRACTION_DIGITS = 20
"""Maximum number of digits after the point; a double holds 17 significant digits."""
_EXPONENT_DIGITS = 3
"""Maximum number of digits in an exponent; doubles end at e308."""
ESCAPED = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
NUMBER_CHARACTERS = frozenset("0123456789+-.eE")


class Frame:
    """A position inside a value.

    `parent` is the position right behind that value, None at the end of the reply.
    """

    __slots__ = ("_key", "_total", "parent")

    def __init__(self, parent: Frame | None) -> None:
        """Initialise at this position."""
        self.parent = parent
        self._total: int | None = None
        self._key: Hashable = None

    @property
    def key(self) -> Hashable:
        """A key that is equal for positions from which the same texts follow."""
        if self._key is None:
            self._key = (
                type(self).__name__,
                self.own_key(),
                None if self.parent is None else self.parent.key,
            )
        return self._key

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class, without the frames around it."""
        raise NotImplementedError

    def step(self, c: str) -> list[Frame | None]:
        """Return the positions after `c`; empty if `c` is not legal here."""
        raise NotImplementedError

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the legal next characters: members of `alphabet`, and characters of fixed texts."""
        raise NotImplementedError

    def may_end(self) -> bool:
        """Return whether the value may end here."""
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
        """Return the number of tokens of `plan`."""
        if self._total is None:
            rest = self.rest()
            below = self.parent.price(price) if self.parent is not None else 0
            self._total = UNREACHABLE if rest is None else below + (price(rest) if rest else 0)
        return self._total


class Literal(Frame):
    """A position inside one of several fixed texts; all of `texts` share the first `at` characters."""

    __slots__ = ("at", "texts")

    def __init__(self, texts: tuple[str, ...], at: int, parent: Frame | None) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.texts = texts
        self.at = at

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.texts, self.at)

    def step(self, c: str) -> list[Frame | None]:
        """Keep the texts that continue with `c`."""
        going = tuple(t for t in self.texts if len(t) > self.at and t[self.at] == c)
        out: list[Frame | None] = []
        if going:
            out.append(literal(going, self.at + 1, self.parent))
        elif self.may_end() and self.parent is not None:
            out += self.parent.step(c)
        return out

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the next characters of the texts, and the characters that may follow a finished text."""
        chars = frozenset(t[self.at] for t in self.texts if len(t) > self.at)
        if self.may_end() and self.parent is not None:
            chars |= self.parent.legal(alphabet)
        return chars

    def may_end(self) -> bool:
        """Return whether one of the texts is finished, such as 1 beside 10."""
        return any(len(t) == self.at for t in self.texts)

    def rest(self) -> str | None:
        """Return the shortest remainder."""
        return min((t[self.at :] for t in self.texts), key=len)


class String(Frame):
    """A position inside a string, after its opening quote.

    `escape` holds the characters of an unfinished escape.
    """

    __slots__ = ("escape", "length", "shape", "states")

    def __init__(
        self, shape: Strings, length: int, states: frozenset[int] | None, escape: str, parent: Frame | None
    ) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.length = length
        self.states = states
        self.escape = escape

    @property
    def is_free(self) -> bool:
        """Whether any character may follow, including the closing quote."""
        return self.shape.regex is None and not self.escape and self.length >= self.shape.least

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (
            self.shape,
            self.states,
            self.escape,
            max(0, self.shape.least - self.length),
            None if self.shape.most is None else self.shape.most - self.length,
        )

    def step(self, c: str) -> list[Frame | None]:
        """Take a character, a part of an escape, or the closing quote."""
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
        """Return the characters that length and pattern allow."""
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
        """Return the shortest remainder with its closing quote."""
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
        """Return whether some character of this non-ASCII range of code points may come next."""
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
        """Take one decoded character."""
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
            # The convention escapes control characters this way and no others.
            code = int(escape[2:], 16)
            return self._take(chr(code)) if code < 0x20 or code == 0x7F else []
        if not "007f".startswith(escape[2:].lower()) and escape[2:5] not in ("0", "00", "000", "001"):
            return []
        return [String(self.shape, self.length, self.states, escape, self.parent)]


class Number(Frame):
    """A position inside a number."""

    __slots__ = ("shape", "written")

    def __init__(self, shape: Numbers, written: str, parent: Frame | None) -> None:
        """Initialise at this position."""
        super().__init__(parent)
        self.shape = shape
        self.written = written

    def own_key(self) -> Hashable:
        """Return what distinguishes this position from others of its class."""
        return (self.shape, self.written)

    def step(self, c: str) -> list[Frame | None]:
        """Take a digit, point or exponent, or the first character after the number."""
        if c in NUMBER_CHARACTERS:
            return (
                [Number(self.shape, self.written + c, self.parent)]
                if _may_follow(self.written, c, self.shape)
                else []
            )
        return self.parent.step(c) if self.may_end() and self.parent is not None else []

    def legal(self, alphabet: frozenset[str]) -> frozenset[str]:
        """Return the characters that continue the number, and those that may follow it."""
        chars = frozenset(c for c in NUMBER_CHARACTERS if _may_follow(self.written, c, self.shape))
        return chars | self.parent.legal(alphabet) if self.may_end() and self.parent is not None else chars

    def may_end(self) -> bool:
        """Return whether the last character is a digit."""
        return self.written[-1].isdigit()

    def may_overflow(self, longest_token: int) -> bool:
        """Return whether a token of this many digits can make the number too long, or too large for a double."""
        most = min(self.shape.most_digits, _FRACTION_DIGITS)
        return "e" in self.written or "E" in self.written or len(self.written) + longest_token > most

    def rest(self) -> str | None:
        """Return digits that complete the number."""
        return complete_number(self.shape, self.written)


def literal(texts: tuple[str, ...], at: int, parent: Frame | None) -> Frame | None:
    """Return the position inside a literal, or the position behind it if the literal is finished."""
    return parent if all(len(t) == at for t in texts) else Literal(texts, at, parent)


def behind_first(text: str, c: str, behind: Frame | None) -> list[Frame | None]:
    """Return the position behind `c`, the first character of a fixed text; empty if the text begins otherwise."""
    return [literal((text,), 1, behind)] if text[0] == c else []


def matched(text: str, progress: int, c: str) -> int:
    """Return the length of the longest beginning of `text` that the characters read so far end with.

    Args:
        text: The text searched for.
        progress: The same length before `c`.
        c: The next character.

    Source: the failure function of Knuth, Morris and Pratt, computed on demand.
    """
    if not progress:
        return int(c == text[0])
    written = text[:progress] + c
    return next((n for n in range(min(len(written), len(text)), 0, -1) if written.endswith(text[:n])), 0)


@lru_cache(maxsize=4)
def escapes(closing: str) -> Mapping[str, str]:
    """Return the character for each letter after a backslash, in a string that ends with `closing`."""
    return {closing if letter == '"' else letter: closing if c == '"' else c for letter, c in ESCAPED.items()}


@lru_cache(maxsize=16)
def inside_string(alphabet: frozenset[str], closable: bool, closing: str = '"') -> frozenset[str]:
    """Return the legal next characters inside a string without a pattern."""
    return (alphabet | {closing, "\\"}) if closable else (alphabet | {"\\"}) - {closing}


@lru_cache(maxsize=4096)
def _inside_pattern(
    regex: Regex, states: frozenset[int], alphabet: frozenset[str], closable: bool, closing: str
) -> frozenset[str]:
    """Return the legal next characters inside a string with a pattern."""
    chars = regex.characters(states, alphabet - {closing, "\\"})
    if any(regex.step(states, c) for c in escapes(closing).values()):
        chars.add("\\")
    return frozenset(chars | {closing} if closable else chars)


def _may_follow(written: str, c: str, shape: Numbers) -> bool:
    """Return whether `written` plus `c` is the beginning of a JSON number within the limits of length."""
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
