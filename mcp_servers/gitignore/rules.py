"""Matching of all patterns of a file at once, in a few steps for each byte of a name.

Regular expressions made of hostile patterns (`*a*a*a*b`) take exponential time with backtracking, and thousands of
harmless ones are slow one by one. Here the patterns are concatenated in one long integer, with a bit for each
position that a match can be at; reading a byte is a shift and a mask, as in Shift-And (Baeza-Yates and Gonnet
1992) with the gaps of Wu and Manber (1992). The cost depends only on the lengths: below 1 ms for a name of 255
bytes and the largest accepted file, whatever its content.

The state in a folder is the starting point for names in it, so no path is read twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from mcp_servers.gitignore.patterns import SLASH, Gap, Pattern, parse_line

MAX_FILE_BYTES = 64 * 1024
"""Size of the largest accepted file; usual ones have a few KiB, and a long one slows down every name."""
MAX_RULES = 2_000
"""Maximum number of rules of one file."""
_MARK = b"\xef\xbb\xbf"


class UnusableRules(ValueError):
    """A file is too large, has too many rules, or is not text."""


class Rules:
    """Compiled rules of one file."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        """Compile patterns; later ones win over earlier ones."""
        places = _Places()
        for pattern in patterns:
            places.add(pattern)
        self._n_places = len(places.steps)
        self.start = self._bits(places.starts)
        """State in the folder of the file."""
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
        """Return the state after reading `name` in a folder with `state`."""
        moves, stays = self._moves, self._stays_in_name
        for byte in name:
            state = (state & moves[byte]) << 1 | state & stays
        return state

    def in_folder(self, after_name: int) -> int:
        """Return the state in the folder with the name just read."""
        moving = after_name & self._moves[SLASH]
        moved = moving << 1 | (moving & self._skips) << 2
        return moved | after_name & self._stays_in_path | self._floating

    def verdict(self, after_name: int, *, is_folder: bool) -> bool | None:
        """Return whether the entry with the name just read is ignored; None if no rule matches."""
        ends = after_name & (self._ends if is_folder else self._ends_of_files)
        if not ends:
            return None
        return not self._ends_that_bring_back >> ends.bit_length() - 1 & 1

    def _bits(self, places: Iterable[int]) -> int:
        return _bits(places, self._n_places)


class _Places:
    """Positions of each pattern, in the order of the bits: one before each step, one at the end."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """Byte set that leads from each position to the next; 0 at the end of a pattern."""
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
    """Return the integer with these bits set; setting them one by one would copy the integer each time."""
    packed = bytearray(n_places // 8 + 1)
    for place in places:
        packed[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(packed, "little")


def _by_byte(steps: list[int], n_places: int) -> list[int]:
    """Return, for each byte, the positions from which it leads on.

    A position is toggled only at the borders of its set, so `[^a]` costs six changes instead of 254.
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
    """Return the bytes at which a run of the set begins, or just after one ends."""
    borders: list[int] = []
    left = step ^ step << 1
    while left:
        lowest = left & -left
        borders.append(lowest.bit_length() - 1)
        left ^= lowest
    return tuple(borders)
