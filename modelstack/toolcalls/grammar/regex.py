r"""Regular expressions that match in linear time and can return a shortest text that leads to a match.

`re` backtracks: `(a+)+$` on forty a's and a b takes hours, and a schema from an MCP server may contain such a
pattern. Here a pattern becomes a Thompson automaton, and a state is the set of its live nodes (Thompson 1968;
Cox, "Regular expression matching can be simple and fast"). The same automaton drives the character-level
grammar, finds the shortest completion of a partly written string, and checks values afterwards.

The dialect is the subset of ECMA-262 that JSON Schema recommends: a pattern may match anywhere, `\d \w \s` are
ASCII, `$` is the very end. Look-around, back-references, `\b` and flags are refused.
"""

from __future__ import annotations

import re._constants as op  # type: ignore[import-not-found]  # the parser of `re`, private but unchanged since 2.x
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

MAX_NODES = 20_000
"""Maximum number of automaton nodes; `.{0,5000}` takes 10,000. A character costs at most this many steps."""
MAX_COMPLETION = 2_000
"""Maximum length in characters of a shortest completion; longer ones are not searched for."""
_STEPS_KEPT = 20_000
"""Number of transitions and completions cached for one pattern."""
_TOP = 0x10FFFF
_DIGIT = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_ECMA_SPACE = ((9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
               (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF))  # fmt: skip
_NEWLINES = ((10, 10), (13, 13), (0x2028, 0x2029))
Ranges = tuple[tuple[int, int], ...]
States = frozenset[int]


class RegexError(ValueError):
    """The pattern uses a feature that cannot run in linear time, or needs too many nodes."""


@lru_cache(maxsize=512)
def compile_regex(pattern: str) -> Regex:
    """Return the automaton of `pattern`.

    Raises:
        RegexError: look-around, back-reference, flag, syntax error, or too large.
    """
    return Regex(pattern)


class Regex:
    """An automaton of one pattern. States are frozen sets of node numbers; the empty set is a dead end."""

    def __init__(self, pattern: str) -> None:
        """Build the automaton.

        Raises:
            RegexError: look-around, back-reference, flag, syntax error, or too large.
        """
        self.pattern = pattern
        self._ranges: list[Ranges] = []
        self._next: list[int] = []
        self._empty: list[list[tuple[int, str]]] = []
        try:
            tree = parser.parse(_to_python(pattern))
        except (re_error, RecursionError, OverflowError) as error:
            raise RegexError(f"pattern {pattern!r}: {error}") from error
        if tree.state.flags & ~32:
            raise RegexError(f"pattern {pattern!r}: flags are not supported")
        loop, last = self._node(), self._node()
        first = self._build(tree, last)
        self._accept = self._node()
        tail = self._node()
        self._on(loop, ((0, _TOP),), loop)
        self._empty[loop].append((first, ""))
        self._empty[last].append((tail, ""))
        self._on(tail, ((0, _TOP),), tail)
        self._empty[tail].append((self._accept, "$"))
        self._useful = self._find_useful()
        self._steps: dict[tuple[States, str], States] = {}
        self._completions: dict[tuple[States, int], str | None] = {}
        self.start = self._close({loop}, at_start=True) & self._useful

    def step(self, states: States, character: str) -> States:
        """Return the live nodes after one more character."""
        key = (states, character)
        found = self._steps.get(key)
        if found is None:
            code = ord(character)
            moved = {self._next[n] for n in states if any(low <= code <= high for low, high in self._ranges[n])}
            found = self._close(moved) & self._useful
            if len(self._steps) > _STEPS_KEPT:
                self._steps.clear()
            self._steps[key] = found
        return found

    def accepts(self, states: States) -> bool:
        """Return whether the string may end here."""
        return self._accept in self._close(states, at_end=True)

    def search(self, text: str) -> bool:
        """Return whether the pattern matches somewhere in `text`, in time linear in its length."""
        states = self.start
        for character in text:
            states = self.step(states, character)
            if not states:
                return False
        return self.accepts(states)

    def completion(self, states: States, at_least: int = 0) -> str | None:
        """Return a shortest string of at least `at_least` characters that leads to a match.

        None if there is none.
        """
        key = (states, at_least)
        if key not in self._completions:
            if len(self._completions) > _STEPS_KEPT:
                self._completions.clear()
            self._completions[key] = self._shortest(states, at_least)
        return self._completions[key]

    def _shortest(self, states: States, at_least: int) -> str | None:
        """Search level by level over single nodes, so that the cost is nodes times levels and not exponential."""
        level: dict[int, tuple[int, str] | None] = dict.fromkeys(states)
        levels = [level]
        for depth in range(MAX_COMPLETION):
            if depth >= at_least:
                for n in level:
                    if self._reaches_end(n):
                        return _trace(levels, n)
            following: dict[int, tuple[int, str] | None] = {}
            for n in level:
                if not self._ranges[n]:
                    continue
                character = _friendly(self._ranges[n])
                if character is None:
                    continue
                for reached in self._close({self._next[n]}) & self._useful:
                    following.setdefault(reached, (n, character))
            if not following:
                return None
            level = following
            levels.append(level)
        return None

    def characters(self, states: States, alphabet: Iterable[str]) -> set[str]:
        """Return the members of `alphabet` that may come next."""
        ranges = {r for n in states for r in self._ranges[n]}
        return {c for c in alphabet if any(low <= ord(c) <= high for low, high in ranges)}

    def takes_between(self, states: States, low: int, high: int) -> bool:
        """Return whether some character of this range of code points may come next."""
        return any(first <= high and low <= last for n in states for first, last in self._ranges[n])

    def _reaches_end(self, node: int) -> bool:
        return self._accept in self._close({node}, at_end=True)

    def _node(self) -> int:
        if len(self._next) >= MAX_NODES:
            raise RegexError(f"pattern {self.pattern[:60]!r} needs more than {MAX_NODES} nodes")
        self._ranges.append(())
        self._next.append(-1)
        self._empty.append([])
        return len(self._next) - 1

    def _on(self, node: int, ranges: Ranges, following: int) -> None:
        self._ranges[node] = ranges
        self._next[node] = following

    def _close(self, nodes: Iterable[int], *, at_start: bool = False, at_end: bool = False) -> States:
        """Follow edges that take no character; anchors are open only at the start and the end."""
        seen = set(nodes)
        waiting = list(seen)
        while waiting:
            for following, anchor in self._empty[waiting.pop()]:
                open_ = not anchor or (anchor == "^" and at_start) or (anchor == "$" and at_end)
                if open_ and following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return frozenset(seen)

    def _find_useful(self) -> States:
        """Return the nodes from which a match can be reached after the start of the string."""
        backward: list[list[int]] = [[] for _ in self._next]
        for n, following in enumerate(self._next):
            if following >= 0:
                backward[following].append(n)
            for reached, anchor in self._empty[n]:
                if anchor != "^":
                    backward[reached].append(n)
        seen = {self._accept}
        waiting = [self._accept]
        while waiting:
            for n in backward[waiting.pop()]:
                if n not in seen:
                    seen.add(n)
                    waiting.append(n)
        return frozenset(seen)

    def _build(self, tree: Any, after: int) -> int:
        """Build the nodes of a sequence that continues at `after`; return its first node."""
        for code, argument in reversed(list(tree)):
            after = self._build_one(code, argument, after)
        return after

    def _build_one(self, code: Any, argument: Any, after: int) -> int:
        if code is op.SUBPATTERN:
            _, add, remove, inner = argument
            if add or remove:
                raise RegexError(f"pattern {self.pattern!r}: flags are not supported")
            return self._build(inner, after)
        if code is op.BRANCH:
            node = self._node()
            self._empty[node] = [(self._build(branch, after), "") for branch in argument[1]]
            return node
        if code in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, high, inner = argument
            return self._repeat(low, high, inner, after)
        if code is op.AT and argument in (op.AT_BEGINNING, op.AT_END):
            node = self._node()
            self._empty[node].append((after, "^" if argument is op.AT_BEGINNING else "$"))
            return node
        node = self._node()
        self._on(node, self._set(code, argument), after)
        return node

    def _repeat(self, low: int, high: Any, inner: Any, after: int) -> int:
        if high is op.MAXREPEAT:
            loop = self._node()
            self._empty[loop] = [(self._build(inner, loop), ""), (after, "")]
            after = loop
        else:
            for _ in range(int(high) - low):
                node = self._node()
                self._empty[node] = [(self._build(inner, after), ""), (after, "")]
                after = node
        for _ in range(low):
            after = self._build(inner, after)
        return after

    def _set(self, code: Any, argument: Any) -> Ranges:
        """Return the character ranges of a single-character item."""
        if code is op.LITERAL:
            return ((argument, argument),)
        if code is op.NOT_LITERAL:
            return _complement(((argument, argument),))
        if code is op.ANY:
            return _complement(_NEWLINES)
        if code is op.IN:
            negate = bool(argument) and argument[0][0] is op.NEGATE
            ranges: list[tuple[int, int]] = []
            for kind, value in argument[negate:]:
                ranges.extend((value,) if kind is op.RANGE else self._set(kind, value))
            return _complement(tuple(ranges)) if negate else tuple(ranges)
        classes = {
            op.CATEGORY_DIGIT: _DIGIT,
            op.CATEGORY_WORD: _WORD,
            op.CATEGORY_SPACE: _ECMA_SPACE,
            op.CATEGORY_NOT_DIGIT: _complement(_DIGIT),
            op.CATEGORY_NOT_WORD: _complement(_WORD),
            op.CATEGORY_NOT_SPACE: _complement(_ECMA_SPACE),
        }
        if code is op.CATEGORY and argument in classes:
            return classes[argument]
        raise RegexError(f"pattern {self.pattern!r}: {str(code).lower()} cannot be enforced in linear time")


re_error = parser.error if hasattr(parser, "error") else ValueError


def _to_python(pattern: str) -> str:
    """Return a pattern of ECMA-262 in Python's spelling."""
    out, i = [], 0
    while i < len(pattern):
        pair = pattern[i : i + 2]
        if pair == "\\/":
            out.append("/")
            i += 2
        elif pair in ("\\A", "\\Z", "\\a"):
            raise RegexError(f"pattern {pattern!r}: {pair} has no meaning in ECMA-262")
        elif pair == "(?" and pattern[i + 2 : i + 3] == "<" and pattern[i + 3 : i + 4] not in ("=", "!"):
            out.append("(?P<")
            i += 3
        else:
            out.append(pair if pair[0] == "\\" else pair[0])
            i += 2 if pair[0] == "\\" else 1
    return "".join(out)


def _complement(ranges: Ranges) -> Ranges:
    out, at = [], 0
    for low, high in sorted(ranges):
        if low > at:
            out.append((at, low - 1))
        at = max(at, high + 1)
    if at <= _TOP:
        out.append((at, _TOP))
    return tuple(out)


def _friendly(ranges: Ranges) -> str | None:
    """Return a plain character of a set: a letter or digit if possible, never a character that JSON escapes."""
    for wanted in ("a0A-_. ", [chr(c) for c in range(33, 127)]):
        for character in wanted:
            code = ord(character)
            if character not in '"\\' and any(low <= code <= high for low, high in ranges):
                return character
    for low, high in ranges:
        for code in range(max(low, 0xA0), min(high, max(low, 0xA0) + 64) + 1):
            if not 0xD800 <= code <= 0xDFFF:
                return chr(code)
    return None


def _trace(levels: list[dict[int, tuple[int, str] | None]], node: int) -> str:
    """Follow the back-pointers of a level-by-level search."""
    characters = []
    for level in reversed(levels):
        step = level[node]
        if step is None:
            break
        node, character = step
        characters.append(character)
    return "".join(reversed(characters))
