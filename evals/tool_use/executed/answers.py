"""Checks whether an answer states the expected facts and does not contradict them.

A lenient match rewards cheating: an answer that contains every file also contains "12" somewhere. The rules are
therefore strict, and the agent is told to answer briefly (`running.INSTRUCTIONS`):

- at most `MAX_ANSWER_CHARS` characters in `MAX_ANSWER_LINES` lines;
- whole tokens only: 12 does not match 112, 12.5, 12-13, P-12 or 2026-12-01, and notes.md does not match
  old/notes.md;
- an expected value must not be negated or left open ("not 12", "more than 12", "12 or 13");
- none of the other candidates that the task names may occur, not even negated or inside a path;
- at most `MAX_OTHER_NUMBERS` numbers beyond the expected ones and those of the user's prompt.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evals.tool_use.executed.task import Answer, NumberAnswer, WordsAnswer

MAX_ANSWER_CHARS = 400
"""Three long sentences; the longest reference answer is shorter than 120 characters."""
MAX_ANSWER_LINES = 5
"""A list of the two or three requested items, with a line before it."""
MAX_OTHER_NUMBERS = 4
"""Room for the terms of a sum; an answer that copies a whole file contains more numbers."""
MAX_DENIAL_DISTANCE = 3
"""Maximum number of tokens between a negation and the negated value, as in "not at all the 12"."""
NUMBER_TOLERANCE = 1e-6

# Order of the alternatives: numbers with thousands separators, then compound words (paths, addresses, dates,
# times, identifiers).
_TOKEN = re.compile(
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\W\d_]*(?!\w)"
    r"|\w+(?:(?:[-./@'\u2019]|(?<=\d):(?=\d))\w+)*"
)
_NUMBER = re.compile(r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?:eur|usd|ms|s|min|h|kb|mb|gb|ml|g|kg)?")
_CLAUSE_END = re.compile(r"[.,;:!?()\n]|\s[-\u2013\u2014]\s")
_DENIALS = frozenset({"not", "no", "never", "nor", "neither", "without", "except", "cannot", "hardly"})
_COMPARISONS = frozenset({"than", "under", "over", "below", "above", "least", "most"})
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL_NUMBERS = {word: value for value, word in enumerate(_NUMBER_WORDS)} | {
    f"{tens}-{_NUMBER_WORDS[units]}" if units else tens: 10 * (index + 2) + units
    for index, tens in enumerate(_TENS)
    for units in range(10)
}


@dataclass(frozen=True, slots=True)
class AnswerBounds:
    """Limits on the length of an answer and on the numbers in it beyond the expected ones."""

    max_chars: int = MAX_ANSWER_CHARS
    max_lines: int = MAX_ANSWER_LINES
    max_other_numbers: int = MAX_OTHER_NUMBERS


SHORT = AnswerBounds()


@dataclass(frozen=True, slots=True)
class Token:
    """A word of an answer, in lower case."""

    text: str
    opens_clause: bool
    """Whether punctuation separates the word from the one before it."""
    is_negative: bool = False
    """Whether a minus sign precedes the word."""


def answer_problem(answer: Answer | None, text: str, prompt: str, bounds: AnswerBounds = SHORT) -> str | None:
    """Return the first error in `text` as an answer to `prompt`, or None if the answer is correct."""
    if answer is None:
        return None
    if not text.strip():
        return "there is no answer"
    if len(text) > bounds.max_chars:
        return f"the answer has {len(text)} characters, more than {bounds.max_chars}"
    n_lines = sum(bool(line.strip()) for line in text.splitlines())
    if n_lines > bounds.max_lines:
        return f"the answer has {n_lines} lines, more than {bounds.max_lines}"
    tokens = tuple(tokens_of(text))
    problem, expected = (
        _number_problem(answer, tokens) if isinstance(answer, NumberAnswer) else _words_problem(answer, tokens)
    )
    return problem or _too_many_numbers(tokens, expected, prompt, bounds.max_other_numbers)


def tokens_of(text: str) -> Iterator[Token]:
    """Split a text into case-folded tokens."""
    text = unicodedata.normalize("NFKC", text)
    end = 0
    for match in _TOKEN.finditer(text):
        between = text[end : match.start()]
        folded = match.group().casefold().replace("\u2019", "'").removesuffix("'s").strip("_")
        if folded:
            opens = end > 0 and _CLAUSE_END.search(between) is not None
            yield Token(folded, opens, is_negative=between.endswith(("-", "\u2212")))
        end = match.end()


def number_of(token: Token) -> float | None:
    """Return the number that a token states, or None.

    "one" does not count as a number, because it is usually a pronoun.
    """
    match = _NUMBER.fullmatch(token.text)
    if match is not None:
        value = float(match[1].replace(",", ""))
        return -value if token.is_negative else value
    return None if token.text == "one" else _SMALL_NUMBERS.get(token.text)


def _number_problem(answer: NumberAnswer, tokens: Sequence[Token]) -> tuple[str | None, Sequence[float]]:
    """Return the first error or None, and the expected numbers."""
    expected = [answer.value]
    places = [
        index
        for index, token in enumerate(tokens)
        if _same(number_of(token), answer.value) or (answer.value == 1 and token.text == "one")
    ]
    if not places:
        return f"{answer.value:g} is not in it", expected
    numbers = _numbers(tokens)
    for forbidden in answer.forbidden:
        if any(_same(value, forbidden) for value in numbers):
            return f"it states {forbidden:g} as well", expected
    if any(_is_open(tokens, place, place + 1) for place in places):
        return f"it denies {answer.value:g} or leaves it open", expected
    return None, expected


def _words_problem(answer: WordsAnswer, tokens: Sequence[Token]) -> tuple[str | None, Sequence[float]]:
    """Return the first error or None, and the numbers within the expected words."""
    expected: list[float] = []
    for ways in answer.required:
        places = [place for way in ways for place in _places(tokens, way)]
        if not places:
            return f"{ways[0]!r} is not in it", expected
        if any(_is_open(tokens, first, end) for first, end in places):
            return f"it denies {ways[0]!r} or leaves it open", expected
        stated = (number_of(token) for first, end in places for token in tokens[first:end])
        expected += [value for value in stated if value is not None]
    for forbidden in answer.forbidden:
        if _mentions(tokens, forbidden):
            return f"it states {forbidden!r} as well", expected
    return None, expected


def _too_many_numbers(
    tokens: Sequence[Token], expected: Sequence[float], prompt: str, max_others: int
) -> str | None:
    given = [*expected, *_numbers(tokens_of(prompt))]
    others = [value for value in _numbers(tokens) if not any(_same(value, known) for known in given)]
    if len(others) > max_others:
        return f"it states {len(others)} numbers besides"
    return None


def _numbers(tokens: Iterable[Token]) -> set[float]:
    return {value for token in tokens if (value := number_of(token)) is not None}


def _places(tokens: Sequence[Token], phrase: str) -> list[tuple[int, int]]:
    """Return the token ranges (start, end) at which a phrase occurs."""
    wanted = [token.text for token in tokens_of(phrase)]
    n = len(wanted)
    return [
        (first, first + n)
        for first in range(len(tokens) - n + 1)
        if [token.text for token in tokens[first : first + n]] == wanted
    ]


def _mentions(tokens: Sequence[Token], phrase: str) -> bool:
    """Return whether a phrase occurs.

    A phrase with letters may also occur within a longer token, such as a path.
    """
    if phrase.isnumeric():
        return bool(_places(tokens, phrase))
    wanted = re.escape(_joined(tokens_of(phrase)))
    return re.search(rf"(?<!\w){wanted}(?!\w)", _joined(tokens)) is not None


def _joined(tokens: Iterable[Token]) -> str:
    return " ".join(token.text for token in tokens)


def _is_open(tokens: Sequence[Token], first: int, end: int) -> bool:
    """Return whether the tokens from `first` to `end` are negated, compared, or one of several alternatives."""
    if end < len(tokens) and tokens[end].text == "or":
        return True
    for distance in range(1, MAX_DENIAL_DISTANCE + 1):
        index = first - distance
        if index < 0 or tokens[index + 1].opens_clause:
            return False
        word = tokens[index].text
        if word in _DENIALS or word.endswith("n't"):
            return True
        if distance == 1 and (word in _COMPARISONS or word == "or"):
            return True
        if word in ("instead", "rather") and distance <= 2:
            return True
    return False


def _same(first: float | None, second: float) -> bool:
    return first is not None and abs(first - second) < NUMBER_TOLERANCE
