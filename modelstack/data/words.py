"""Splitting of English text into words and sentences as FineWeb's rules count them.

datatrove's rules use a blank spaCy 3 tokenizer. This module yields the same words, far faster; punctuation marks
are words. The algorithm (https://spacy.io/usage/linguistic-features, "How tokenizer rules work"):

1. Split the text into chunks at white space. The words of a chunk depend on the chunk alone, so they are cached.
2. Split affixes off both ends of a chunk until it is listed (`word_tables`) or no affix remains.
3. Use the listed pieces, keep an address whole, or split the rest at infixes.
4. Join consecutive words that spell a listed word.

One case of spaCy is left out: a listed word across two chunks. It has no effect except to keep apart marks that
spell a shorter listed word.

All steps are linear in the text: affixes are removed by moving two indices, and no pattern can backtrack over a
character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain, islice
from typing import TypeVar

from modelstack.data import word_tables as tables

MAX_CACHED_TEXTS = 200_000
"""Maximum texts of a cache: about 60 MB of chunks with their words."""
MAX_CACHED_LENGTH = 64
"""Maximum characters of a cached text; longer texts rarely repeat."""
T = TypeVar("T")

_DIGITS = frozenset("0123456789")
_RUNS = re.compile(r"\S+|\s+")


def split_words(text: str) -> list[str]:
    """Return the words of a text, without white space."""
    return words_of_chunks(text.split())


def words_of_chunks(chunks: Iterable[str]) -> list[str]:
    """Return the words of a text already split at white space."""
    return list(chain.from_iterable(map(_words_of_chunk.__getitem__, chunks)))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, each with its preceding white space; joined, they are the text."""
    ends = list(_sentence_ends(text))
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def count_sentences(text: str, at_most: int) -> int:
    """Return the number of sentences, at most `at_most`; a text without words has one."""
    return 1 + sum(1 for _ in islice(_sentence_ends(text), max(at_most - 1, 0)))


class TextCache(dict[str, T]):
    """Cache of a function of short texts; a full cache is cleared, and frequent texts soon return."""

    def __init__(self, compute: Callable[[str], T]) -> None:
        """Start empty; `compute` is called for texts that are not cached."""
        super().__init__()
        self._compute = compute

    def __missing__(self, text: str) -> T:
        value = self._compute(text)
        if len(text) <= MAX_CACHED_LENGTH:
            if len(self) >= MAX_CACHED_TEXTS:
                self.clear()
            self[text] = value
        return value


def _sentence_ends(text: str) -> Iterator[int]:
    """Yield the end positions of all sentences but the last.

    A sentence ends after its sentence-ending word and any punctuation behind that word.

    White space other than one blank counts as a word that begins the next sentence, as in spaCy.
    """
    ending = False
    for run in _RUNS.finditer(text):
        chunk, place = run[0], run.start()
        if not ending and tables.SENTENCE_ENDS.isdisjoint(chunk):
            continue
        if chunk[0].isspace():
            if chunk != " ":
                yield place
                ending = False
            continue
        for word in _words_of_chunk[chunk]:
            if word in tables.SENTENCE_ENDS:
                ending = True
            elif ending and not _is_punctuation(word):
                # The blank before a word belongs to the next sentence.
                yield place - 1 if place == run.start() and place and text[place - 1] == " " else place
                ending = False
            place += len(word)


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(character)[0] == "P" for character in word)


def _split_chunk(chunk: str) -> tuple[str, ...]:
    listed = _listed()
    if chunk in listed:
        return listed[chunk]
    if chunk.isalpha():
        return (chunk,)
    return _joined_where_listed(_cut(chunk, listed))


_words_of_chunk = TextCache(_split_chunk)


def _cut(chunk: str, listed: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the words of a chunk; words in `listed` are not split further."""
    longest = _longest_listed() if listed else 0
    before: list[str] = []
    behind: list[str] = []
    start, end = 0, len(chunk)

    def is_listed(start: int, end: int) -> bool:
        return 0 < end - start <= longest and chunk[start:end] in listed

    while start < end and not is_listed(start, end):
        n_prefix = _prefix(chunk, start, end)
        if n_prefix and is_listed(start + n_prefix, end):
            before.append(chunk[start : start + n_prefix])
            start += n_prefix
            break
        n_suffix = _suffix(chunk, start + n_prefix, end)
        if n_suffix and is_listed(start, end - n_suffix):
            behind.append(chunk[end - n_suffix : end])
            end -= n_suffix
            break
        if n_prefix:
            before.append(chunk[start : start + n_prefix])
        if n_suffix:
            behind.append(chunk[end - n_suffix : end])
        if not n_prefix and not n_suffix:
            break
        start, end = start + n_prefix, end - n_suffix
    core = chunk[start:end]
    if core in listed:
        inside = list(listed[core])
    elif not core or core.isalnum() or _is_address(core):
        inside = [core] if core else []
    else:
        inside = _cut_inside(core)
    return [*before, *inside, *reversed(behind)]


def _prefix(chunk: str, start: int, end: int) -> int:
    """Return the number of characters to split off the beginning of `chunk[start:end]`."""
    first = chunk[start]
    if first in tables.PREFIXES:
        return 1
    if first == ".":
        n = 1
        while start + n < end and chunk[start + n] == ".":
            n += 1
        return n if n > 1 else 0
    if first == "+":
        return 0 if start + 1 < end and chunk[start + 1] in _DIGITS else 1
    for currency in tables.LETTER_CURRENCIES:
        if first == currency[0] and chunk.startswith(currency, start, end):
            return len(currency)
    return 0


def _suffix(chunk: str, start: int, end: int) -> int:
    """Return the number of characters to split off the end of `chunk[start:end]`: the longest matching suffix."""
    if start == end:
        return 0
    last = chunk[end - 1]
    previous = chunk[end - 2] if end - start > 1 else ""
    if last == ".":
        return _full_stops(chunk, start, end, previous)
    if last in "sS" and previous and previous in "'’":
        return 2
    if last == previous == "…":
        return 2
    if last == "$":
        for currency in tables.LETTER_CURRENCIES:
            place = end - len(currency)
            if place > start and chunk.startswith(currency, place, end) and chunk[place - 1] in _DIGITS:
                return len(currency)
    if last in tables.SUFFIXES:
        return 1
    if last in tables.UNIT_ENDS:
        for n in range(1, min(tables.LONGEST_UNIT, end - start - 1) + 1):
            if chunk[end - n - 1] in _DIGITS:
                return n if chunk[end - n : end] in tables.UNITS else 0
    return 1 if previous in _DIGITS and (last == "+" or last in tables.CURRENCIES) else 0


def _full_stops(chunk: str, start: int, end: int, previous: str) -> int:
    n = 1
    while end - n > start and chunk[end - n - 1] == ".":
        n += 1
    if n > 1:
        return n
    if previous in tables.BEFORE_FULL_STOP:
        return 1
    third = chunk[end - 3] if end - start > 2 else ""
    after_capitals = previous in tables.UPPER and third in tables.UPPER
    after_degrees = third == "°" and previous and previous in "FfCcKk"
    return 1 if after_capitals or after_degrees else 0


@cache
def _marks_inside() -> re.Pattern[str]:
    letters, lower, upper = map(_character_class, (tables.LETTERS, tables.LOWER, tables.UPPER))
    quotes, symbols = _character_class(tables.QUOTES), _character_class(tables.SYMBOLS)
    return re.compile(
        rf"\.\.+|…|[{symbols}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[{lower}{quotes}])\.(?=[{upper}{quotes}])"
        rf"|(?<=[{letters}]),(?=[{letters}])|(?<=[{letters}0-9])(?:---?|-|–|——?|~)(?=[{letters}])"
        rf"|(?<=[{letters}0-9])[:<>=/](?=[{letters}])"
    )


def _character_class(characters: Iterable[str]) -> str:
    """Return ranges for use inside `[...]` of a regular expression."""
    ranges: list[list[int]] = []
    for point in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges)


def _cut_inside(core: str) -> list[str]:
    words: list[str] = []
    place = 0
    for mark in _marks_inside().finditer(core):
        if mark.start() == 0:
            continue
        words += [core[place : mark.start()], mark[0]]
        place = mark.end()
    words.append(core[place:])
    return [word for word in words if word]


@cache
def _address() -> re.Pattern[str]:
    # spaCy's pattern excludes private and local networks and the first and last address of a network.
    private = r"(?:10|127)\.\d{1,3}|169\.254|192\.168|172\.(?:1[6-9]|2\d|3[01])"
    first, middle = r"[1-9]\d?|1\d\d|2[01]\d|22[0-3]", r"1?\d{1,2}|2[0-4]\d|25[0-5]"
    host = r"[1-9]\d?|1\d\d|2[0-4]\d|25[0-4]"
    number = rf"(?!(?:{private})(?:\.\d{{1,3}}){{2}})(?:{first})(?:\.(?:{middle})){{2}}\.(?:{host})"
    letter = r"A-Za-z0-9\u00a1-\uffff"
    # A top-level domain with a capital would turn "lower.Upper", two adjacent sentences, into an address.
    last = rf"[{_character_class(tables.LOWER)}]{{2,63}}"
    names = rf"(?:(?:[{letter}][{letter}_-]{{0,62}})?[{letter}]\.)+{last}"
    return re.compile(rf"(?:{number}|{names})(?::\d{{2,5}})?(?:[/?#]\S*)?\Z")


_SCHEME = re.compile(r"[\w+\-.]{2,}://")


def _is_address(core: str) -> bool:
    """Whether `core` is a host or URL, optionally preceded by a user name and "@"."""
    if "." not in core:
        return False
    scheme = _SCHEME.match(core)
    places = [0, scheme.end()] if scheme else [0]
    at = core.find("@", 1)
    while at >= 0:
        places.append(at + 1)
        at = core.find("@", at + 1)
    return any(_address().match(core, place) for place in places)


@cache
def _listed() -> dict[str, tuple[str, ...]]:
    return tables.words_with_pieces()


@cache
def _longest_listed() -> int:
    return max(map(len, _listed()))


@cache
def _spelled() -> tuple[dict[tuple[str, ...], tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """Return two tables for joining words that spell a listed word.

    The first maps the words that a listed word splits into to its listed pieces. The second maps the first of
    these words to their possible numbers, largest first.
    """
    spelled: dict[tuple[str, ...], tuple[str, ...]] = {}
    lengths: dict[str, set[int]] = {}
    for word, pieces in _listed().items():
        apart = tuple(_cut(word, {}))
        if len(apart) > 1:
            spelled[apart] = pieces
            lengths.setdefault(apart[0], set()).add(len(apart))
    return spelled, {first: tuple(sorted(counts, reverse=True)) for first, counts in lengths.items()}


def _joined_where_listed(words: list[str]) -> tuple[str, ...]:
    """Replace consecutive words that spell a listed word by its pieces: longest first, without overlap."""
    spelled, lengths = _spelled()
    found = [
        (n, -i)
        for i, word in enumerate(words)
        for n in lengths.get(word, ())
        if i + n <= len(words) and tuple(words[i : i + n]) in spelled
    ]
    if not found:
        return tuple(words)
    seen: set[int] = set()
    taken: dict[int, int] = {}
    for n, minus_i in sorted(found, reverse=True):
        start = -minus_i
        if start not in seen and start + n - 1 not in seen:
            taken[start] = n
        seen.update(range(start, start + n))
    result: list[str] = []
    i = 0
    while i < len(words):
        n = taken.get(i)
        if n is None:
            result.append(words[i])
            i += 1
        else:
            result += spelled[tuple(words[i : i + n])]
            i += n
    return tuple(result)
