"""Clauses (the wording of a wish with its calls), and the templates that generate them.

A template is a sentence without capital and full stop. Its syntax:

- `{date}`: wording of a value ("on Friday"); `{date.bare}`: wording without preposition;
- `(book|reserve)`: a choice;
- `[at {time}]`: an optional part;
- `<<...>>`: a part repeated for each of several calls ("convert <<{amount} from {source} to {target}>>");
- a leading `~`: a fragment, which cannot follow "could you".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelstack.data.tools.spoken import Scene, Spoken, listed

Mood = Literal["order", "question", "statement", "fragment"]
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)(\.bare)?\}")
_BEFORE_VOWEL = re.compile(r"\b([aA]) (?=[aeio](?!ne\b|nce\b|u)|u[lmnpr](?!i))")
_P_MERGED, _MOST_LISTED_WORDS = 0.3, 4
_LONG = 24
"""Minimum characters of a part before which a comma precedes "and"."""
_REPEATED = re.compile(r"<<(.*)>>")
_QUESTION_TEXT = (
    "what what's which who whom whose when where why how how's is are was were do does did will would has have am "
    "may should could can"
)
_STATEMENT_TEXT = (
    "i i'm i'd i've i'll we we're we'd we've my our the there there's it it's somebody someone they he she this "
    "that all new sorry don't"
)
_QUESTION_WORDS, _STATEMENT_WORDS = _QUESTION_TEXT.split(), _STATEMENT_TEXT.split()


@dataclass(frozen=True, slots=True)
class Clause:
    """A wish with its calls."""

    text: str
    """Wording without initial capital and final full stop; a question keeps its mark."""
    mood: Mood
    calls: tuple[tuple[str, dict[str, Any]], ...]
    """Pairs of tool name and arguments."""
    rules: tuple[str, ...] = ()
    """Rules that lead from wording to values, one per value."""
    needs_today: bool = False
    endings: tuple[str, ...] = ()
    """Phrases for optional parameters, added at the end."""


def slots_of(template: str) -> list[str]:
    """Return the names of the values in a template."""
    return list(dict.fromkeys(name for name, _ in _SLOT.findall(template)))


def is_repeatable(template: str) -> bool:
    """Whether a template can express several calls."""
    return "<<" in template


def repeated_slots(template: str) -> list[str]:
    """Return the names of the values that differ between several calls."""
    found = _REPEATED.search(template)
    return slots_of(found.group(1)) if found else []


def settle(template: str, now: Scene, *, with_slots: Sequence[str], without: Sequence[str] = ()) -> str:
    """Resolve the choices and optional parts of a template.

    Args:
        template: The template.
        now: Source of randomness.
        with_slots: Values to mention: optional parts with them are kept.
        without: Values not to mention: optional parts with them are removed.
    """
    text = template
    while found := _CHOICE.search(text):
        text = text[: found.start()] + now.one(found.group(1).split("|")) + text[found.end() :]

    def keep(found: re.Match[str]) -> str:
        names = slots_of(found.group(1))
        if any(name in without for name in names):
            return ""
        stays = any(name in with_slots for name in names) if names else now.chance(0.5)
        return found.group(1) if stays else ""

    while _OPTIONAL.search(text):
        text = _OPTIONAL.sub(keep, text)
    return tidy(text)


def fill(template: str, values: Sequence[Mapping[str, Spoken]], now: Scene) -> str:
    """Insert the wording of values into a settled template, with one mapping per call."""
    found = _REPEATED.search(template)
    if found is None:
        return _filled(template, values[0])
    before, after = template[: found.start()], template[found.end() :]
    merged = _merged(found.group(1), values, now) if len(values) > 1 and now.chance(_P_MERGED) else None
    if merged is not None:
        return tidy(_filled(before, values[0]) + merged + _filled(after, values[0]))
    each = [_filled(found.group(1), one) for one in values]
    joins = (
        (" and ", " and ", " and also ", ", and ")
        if min(map(len, each)) > _LONG
        else (" and ", " and ", " and also ")
    )
    join = now.one(joins) if len(each) == 2 else " and "
    return tidy(_filled(before, values[0]) + listed(each, join) + _filled(after, values[0]))


def _merged(part: str, values: Sequence[Mapping[str, Spoken]], now: Scene) -> str | None:
    """Return the part once with listed values: "at A and B for 4 and 6 respectively"; None if that reads badly."""
    slots = slots_of(part)
    all_spoken = [each[slot] for each in values for slot in slots]
    if any(isinstance(s.value, list | dict | bool) or _reads_badly_in_a_list(s.said) for s in all_spoken):
        return None
    differing = [slot for slot in slots if len({repr(each[slot].value) for each in values}) > 1]
    together: dict[str, Spoken] = {}
    for slot in slots:
        spoken = [each[slot] for each in values]
        names = listed([s.name for s in spoken]), listed([s.said for s in spoken])
        together[slot] = Spoken(None, names[1], bare=names[0]) if slot in differing else spoken[0]
    words = _filled(part, together)
    return words + now.one((" respectively", ", respectively")) if len(differing) > 1 else words


def _reads_badly_in_a_list(words: str) -> bool:
    return " and " in words or "," in words or " no " in words or len(words.split()) > _MOST_LISTED_WORDS


def mood_of(template: str) -> tuple[str, Mood]:
    """Return a template without its fragment mark, and its mood."""
    if template.startswith("~"):
        return template[1:], "fragment"
    if template.startswith("{") and not template.startswith(("{locked}",)):
        return template, "statement"
    first = re.split(r"[\s,(|\[]", template.lstrip("(["), maxsplit=1)[0].lower()
    if template.rstrip().endswith("?") or first in _QUESTION_WORDS:
        return template, "question"
    return template, "statement" if first in _STATEMENT_WORDS else "order"


def tidy(text: str) -> str:
    """Return text with single spaces, no space before punctuation, and "an" before vowels."""
    text = re.sub(r"\s+([,.?!;:](?:\s|$))", r"\1", re.sub(r"[ \t]+", " ", text)).strip(" ,")
    return _BEFORE_VOWEL.sub(r"\1n ", text)


def _filled(text: str, values: Mapping[str, Spoken]) -> str:
    def words(found: re.Match[str]) -> str:
        spoken = values[found.group(1)]
        return spoken.name if found.group(2) else spoken.said

    return _SLOT.sub(words, text)
