"""A value of a call with its wording in the request, and the rule that leads from wording to value.

A small model quickly learns to copy; it lacks values that must be derived ("half an hour" -> 30, "tomorrow" -> a
date). Each value is therefore generated together with its wording instead of being parsed from text. The pair is
correct by construction, and the rule is counted. (APIGen, arXiv 2406.18518, must check afterwards whether a value
is grounded.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
COPIED = "copied"
"""Rule of a value that is identical in request and call."""
FIRST_DAY = date(2023, 1, 2)
LAST_DAY = date(2028, 12, 28)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ONES_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS_TEXT = "ten twenty thirty forty fifty sixty seventy eighty ninety"
_ONES, _TENS = _ONES_TEXT.split(), _TENS_TEXT.split()


@dataclass(frozen=True, slots=True)
class Spoken:
    """A value with its wording."""

    value: Any
    """The value in the call."""
    said: str
    """Wording in a sentence, with the necessary preposition ("on Friday", "tomorrow")."""
    rule: str = COPIED
    bare: str = ""
    """Wording without the preposition, if different."""
    needs_today: bool = False
    """Whether the wording depends on today's date."""

    @property
    def name(self) -> str:
        """Wording without a preposition."""
        return self.bare or self.said


@dataclass(frozen=True, slots=True)
class Scene:
    """Context of one example: its random numbers and its date."""

    random: Random
    today: date

    def one(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.random.randrange(len(options))]

    def some(self, options: Sequence[T], n: int) -> list[T]:
        """Return `n` different options, or all if there are fewer."""
        return self.random.sample(list(options), min(n, len(options)))

    def chance(self, p: float) -> bool:
        """Return True with probability `p`."""
        return self.random.random() < p


def scene(*seed: object) -> Scene:
    """Return the scene of a seed, identical on every machine."""
    random = Random("/".join(map(str, seed)))
    span = (LAST_DAY - FIRST_DAY).days
    return Scene(random, FIRST_DAY + timedelta(days=random.randrange(span)))


def weekday(day: date) -> str:
    """Return the English name of a day of the week."""
    return _DAYS[day.weekday()]


def in_words(n: int) -> str:
    """Return a whole number below a million in English words."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        tens = _TENS[n // 10 - 1]
        return tens if n % 10 == 0 else f"{tens}-{_ONES[n % 10]}"
    if n < 1000:
        rest = "" if n % 100 == 0 else f" and {in_words(n % 100)}"
        return f"{_ONES[n // 100]} hundred{rest}"
    rest = "" if n % 1000 == 0 else f" {in_words(n % 1000)}"
    return f"{in_words(n // 1000)} thousand{rest}"


def ordinal(n: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` and so on."""
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def listed(parts: Sequence[str], last: str = " and ") -> str:
    """Return `a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + last + parts[-1]


def today_line(now: Scene) -> str:
    """Return a line for the system message that states the date."""
    day, iso = weekday(now.today), now.today.isoformat()
    written = f"{now.today.day} {now.today:%B} {now.today.year}"
    return now.one(
        (
            f"Today is {day} {iso}.",
            f"Today is {day}, {iso}.",
            f"Today's date is {iso}, a {day}.",
            f"Today is {day}, {written}.",
            f"Current date: {iso} ({day})",
            f"Now: {day} {iso} {now.random.randrange(7, 22):02}:{now.random.randrange(60):02}",
        )
    )
