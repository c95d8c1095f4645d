"""Gopher's repetition rules: drop repetitive texts (Rae et al. 2021, arXiv 2112.11446, table A1).

The rules, their order and the reasons follow datatrove 0.10.1, which produced FineWeb; the first rule that matches
decides. Most texts are far from every threshold for word runs. Two bounds (`duplicates`), from word counts and
from one pass over runs of five words, detect that, so the nine exact passes are rare.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Step
from modelstack.data.quality.duplicates import (
    RepeatedRuns,
    bound_of_top_run,
    characters_of_top_run,
    count_again,
)
from modelstack.data.text_view import TextView

_NEWLINES = re.compile(r"\n+")


TOP_RUNS = ((2, 0.2), (3, 0.18), (4, 0.16))
DUPLICATE_RUNS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
"""Pairs (n, share): words of a run, and its maximum share of characters. Rae et al. 2021, table A1."""


class GopherRepetition(BaseModel, frozen=True, extra="forbid"):
    """Drops repetitive texts; None or an empty tuple disables a rule."""

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    max_duplicate_paragraphs: float | None = 0.3
    """Maximum share of repeated paragraphs. Rae et al. 2021, table A1."""
    max_duplicate_paragraph_characters: float | None = 0.2
    """Maximum share of characters in repeated paragraphs. Rae et al. 2021, table A1."""
    max_duplicate_lines: float | None = 0.3
    """Maximum share of repeated lines. Rae et al. 2021, table A1."""
    max_duplicate_line_characters: float | None = 0.2
    """Maximum share of characters in repeated lines. Rae et al. 2021, table A1."""
    max_top_runs: tuple[tuple[int, float], ...] = TOP_RUNS
    """Maximum shares of characters in the most frequent run of n words: pairs (n, share).

    Rae et al. 2021, table A1.
    """
    max_duplicate_runs: tuple[tuple[int, float], ...] = DUPLICATE_RUNS
    """Maximum shares of characters in repeated runs of n words: pairs (n, share). Rae et al. 2021, table A1."""

    def build(self) -> Step:
        """Return the step."""
        return lambda document: gopher_repetition_reason(document.view, self)


def gopher_repetition_reason(view: TextView, rules: GopherRepetition) -> str | None:
    """Return the reason to drop a text, or None to keep it."""
    n_characters = len(view.text)
    if not n_characters:
        return "empty"
    parts = view.paragraphs
    n_again, n_characters_again = count_again(parts)
    if _is_over(n_again / len(parts), rules.max_duplicate_paragraphs):
        return "dup_para_frac"
    if _is_over(n_characters_again / n_characters, rules.max_duplicate_paragraph_characters):
        return "dup_para_char_frac"
    parts = _NEWLINES.split(view.text)
    n_again, n_characters_again = count_again(parts)
    if _is_over(n_again / len(parts), rules.max_duplicate_lines):
        return "dup_line_frac"
    if _is_over(n_characters_again / n_characters, rules.max_duplicate_line_characters):
        return "dup_line_char_frac"
    bound = bound_of_top_run(view.word_counts)
    for n, share in rules.max_top_runs:
        if n * bound / n_characters > share and characters_of_top_run(view.words, n) / n_characters > share:
            return f"top_{n}_gram"
    if not rules.max_duplicate_runs:
        return None
    runs = RepeatedRuns(view.words, min(n for n, _ in rules.max_duplicate_runs))
    bound = runs.bound()
    for n, share in rules.max_duplicate_runs:
        if bound / n_characters > share and runs.characters_again(n) / n_characters > share:
            return f"duplicated_{n}_n_grams"
    return None


def _is_over(share: float, limit: float | None) -> bool:
    return limit is not None and share > limit
