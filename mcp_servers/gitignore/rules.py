"""All patterns of a file matched at once, whatever they are, in a few steps for each byte of a name.

Regular expressions made of hostile patterns (`*a*a*a*b`) take exponential time where they backtrack, and thousands
of harmless ones are slow one by one. Here the patterns stand one behind the other in one long integer, with a bit
for each place that a match can be in; reading a byte is a shift and a mask, as in Shift-And (Baeza-Yates and
Gonnet 1992) with the gaps of Wu and Manber (1992). So the work is known from the lengths alone: below 1 ms for a
name of 255 bytes and the largest file that is taken, whatever is in it.

A folder's state is where the names below it go on, so that no path is read twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from mcp_servers.gitignore.patterns import SLASH, Gap, Pattern, parse_line

MAX_FILE_BYTES = 64 * 1024
"""Largest file that is taken; those that people write have a few KiB, and a long one makes every name slow."""
MAX_RULES = 2_000
"""Most rules of one file."""
_MARK = b"\xef\xbb\xbf"


class UnusableRules(ValueError):
    """A file is too large, or no text."""


class Rules:
    """The rules of one file."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        """Later patterns win over earlier ones."""
        places = _Places()
        for pattern in patterns:
            places.add(pattern)
        self._n_places = len(places.steps)
        self.start = self._bits(places.starts)
        """The state in the folder of the file."""
        self._floating = self._bits(places.floating)
        self._moves = _by_byte(places.steps, self._n_places)
        self._stays_in_path = self._bits(places.of_gap[Gap.PATH] + places.of_gap[Gap.FOLDERS])
        self._stays_in_name = self._bits(places.of_gap[Gap.NAME]) | self._stays_in_path
        self._skips = self._bits([place - 1 for place in places.of_gap[Gap.FOLDERS]])
        self._ends = self._bits(places.ends)
        self._ends_of_files = self._ends & ~self._bits(places.ends_of_folders)
        self._ends_that_bring_back = self._bits(places.ends_that_bring_back)

    @staticmethod
    def parsed(data: bytes) -> Rules:
        """Return the rules of a file with this content.

        Raises:
            UnusableRules: It is too large, has too many rules, or is not UTF-8.
        """
        if len(data) > MAX_FILE_BYTES:
            raise UnusableRules(f"more than {MAX_FILE_BYTES} bytes")
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnusableRules("not UTF-8") from error
        lines = data.removeprefix(_MARK).split(b"\n")
        patterns = [pattern for pattern in map(parse_line, lines) if pattern]
        if len(patterns) > MAX_RULES:
            raise UnusableRules(f"more than {MAX_RULES} rules")
        return Rules(patterns)

    def after_name(self, state: int, name: bytes) -> int:
        """Return the state when `name` has been read, in a folder with `state`."""
        moves, stays = self._moves, self._stays_in_name
        for byte in name:
            state = (state & moves[byte]) << 1 | state & stays
        return state

    def in_folder(self, after_name: int) -> int:
        """Return the state in the folder whose name has been read."""
        moving = after_name & self._moves[SLASH]
        moved = moving << 1 | (moving & self._skips) << 2
        return moved | after_name & self._stays_in_path | self._floating

    def verdict(self, after_name: int, *, is_folder: bool) -> bool | None:
        """Return whether the entry whose name has been read is ignored; None if no rule matches it."""
        ends = after_name & (self._ends if is_folder else self._ends_of_files)
        if not ends:
            return None
        return not self._ends_that_bring_back >> ends.bit_length() - 1 & 1

    def _bits(self, places: Iterable[int]) -> int:
        return _bits(places, self._n_places)


class _Places:
    """Where each pattern's places are, in the order of the bits: one before each step, one at the end."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """What leads from a place to the next; nothing at the end of a pattern."""
        self.starts: list[int] = []
        self.floating: list[int] = []
        self.of_gap: dict[Gap, list[int]] = {gap: [] for gap in Gap}
        self.ends: list[int] = []
        self.ends_of_folders: list[int] = []
        self.ends_that_bring_back: list[int] = []

    def add(self, pattern: Pattern) -> None:
        first = len(self.steps)
        self.steps += [*pattern.steps, 0]
        for place, gap in enumerate(pattern.gaps, first):
            self.of_gap[gap].append(place)
        self.starts.append(first)
        self.floating += [first] if pattern.floats else []
        end = len(self.steps) - 1
        self.ends.append(end)
        self.ends_of_folders += [end] if pattern.only_folders else []
        self.ends_that_bring_back += [end] if pattern.brings_back else []


def _bits(places: Iterable[int], n_places: int) -> int:
    """Return the integer with these bits; one by one, each would cost a copy of all."""
    packed = bytearray(n_places // 8 + 1)
    for place in places:
        packed[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(packed, "little")


def _by_byte(steps: list[int], n_places: int) -> list[int]:
    """Return for each byte the places that it leads on from.

    A step is entered and left at the borders of its set, so that `[^a]` costs six changes and not 254.
    """
    changes: list[list[int]] = [[] for _ in range(257)]
    for place, step in enumerate(steps):
        for byte in _borders(step):
            changes[byte].append(place)
    moves: list[int] = []
    packed = bytearray(n_places // 8 + 1)
    for byte in range(256):
        for place in changes[byte]:
            packed[place >> 3] ^= 1 << (place & 7)
        moves.append(int.from_bytes(packed, "little") if changes[byte] or not moves else moves[-1])
    return moves


@lru_cache(maxsize=1024)
def _borders(step: int) -> tuple[int, ...]:
    """Return the bytes at which the set begins or has ended."""
    borders: list[int] = []
    left = step ^ step << 1
    while left:
        lowest = left & -left
        borders.append(lowest.bit_length() - 1)
        left ^= lowest
    return tuple(borders)
