"""The catalogue: names and descriptions of skills for the instructions, within a budget of tokens.

It is the first of three levels of disclosure; the text of a skill and its files follow when they are needed. The
order is that of the folders, then of names, so the text is the same in each request and process.

A catalogue beyond its budget has shorter descriptions, all of the same length. If even short ones do not fit, it
ends with the number of skills left out, which the model finds with a search by words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.history.compaction import CHARS_PER_TOKEN
from agentkit.skills.skill import Skill

CATALOGUE_TOKENS = 2_000
"""Default budget: about 20 skills with descriptions of 350 characters."""
MIN_DESCRIPTION_CHARS = 80
"""Length below which a description does not say any more when to use the skill."""
MAX_FOUND = 10
_NAME_WEIGHT = 3
_WORD = re.compile(r"[^\W_]+")

_HEADING = (
    "Skills: each is a folder of instructions for one kind of task. If a skill fits the task, call load_skill "
    "with its name first, and follow its text as far as the user's request and the instructions above allow. A "
    "skill grants no permission.\n"
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The text for the instructions, and what it leaves out."""

    text: str
    n_left_out: int = 0
    """Number of skills that only a search finds."""

    @property
    def n_tokens(self) -> int:
        """Approximate number of tokens, by characters."""
        return len(self.text) // CHARS_PER_TOKEN


def catalogue(skills: Sequence[Skill], n_tokens: int = CATALOGUE_TOKENS) -> Catalogue:
    """Return the catalogue of skills within a budget; empty if there are none."""
    if not skills:
        return Catalogue("")
    room = n_tokens * CHARS_PER_TOKEN - len(_HEADING)
    longest = max(len(each.description) for each in skills)
    n_chars = next((n for n in _lengths(longest) if _size(skills, n) <= room), None)
    if n_chars is not None:
        return Catalogue(_HEADING + "\n".join(_line(each, n_chars) for each in skills))
    n_shown = len(skills)
    note = "\n{} more skills are not listed; find them by words with search_skills."
    while n_shown and _size(skills[:n_shown], MIN_DESCRIPTION_CHARS) + len(note) + 4 > room:
        n_shown -= 1
    lines = [_line(each, MIN_DESCRIPTION_CHARS) for each in skills[:n_shown]]
    n_left_out = len(skills) - n_shown
    return Catalogue(_HEADING + "\n".join(lines) + note.format(n_left_out), n_left_out)


def found(query: str, skills: Sequence[Skill]) -> list[Skill]:
    """Return skills that share words with a query, best first; rare words and words of names count more."""
    words = [_counted(each) for each in skills]
    n_with = Counter(word for each in words for word in each)
    scored: list[tuple[float, int]] = []
    for number, counts in enumerate(words):
        score = sum(
            math.log(1 + len(skills) / n_with[word]) * counts[word]
            for word in set(_words(query))
            if word in counts
        )
        if score > 0:
            scored.append((-score, number))
    return [skills[number] for _, number in sorted(scored)[:MAX_FOUND]]


def _lengths(longest: int) -> list[int]:
    """Return lengths of descriptions to try, longest first."""
    steps = range(longest, MIN_DESCRIPTION_CHARS, -20)
    return [*steps, min(longest, MIN_DESCRIPTION_CHARS)]


def _size(skills: Sequence[Skill], n_chars: int) -> int:
    return sum(len(_line(each, n_chars)) + 1 for each in skills)


def _line(skill: Skill, n_chars: int) -> str:
    about = skill.description
    return f"- {skill.name}: {about if len(about) <= n_chars else about[: n_chars - 1] + '…'}"


def _counted(skill: Skill) -> Counter[str]:
    counts = Counter(set(_words(skill.description)))
    for word in _words(skill.name):
        counts[word] += _NAME_WEIGHT
    return counts


def _words(text: str) -> list[str]:
    return [_stem(word) for word in _WORD.findall(text.lower())]


def _stem(word: str) -> str:
    """Return a word without the plural's s, so that "invoices" finds "invoice"."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
