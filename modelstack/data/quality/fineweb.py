"""FineWeb's own rules: lists, menus and repeated lines (Penedo et al. 2024, arXiv 2406.17557, section 3.6).

As datatrove 0.10.1 has them, with its reasons: the first rule that hits decides. A line is what lies between
newlines and is not blank.

The share of characters in repeated lines is in dispute. The paper says that texts with 0.1 or more were
removed, the code that made FineWeb has 0.01, and FineWeb-2's authors say that they raised theirs from 0.01 to
0.1. So it is a value here, with the code's as its default; a run's configuration tells which it used.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Step
from modelstack.data.quality.characters import LINE_ENDS
from modelstack.data.quality.duplicates import count_again
from modelstack.data.text_view import TextView


class FineWebQuality(BaseModel, frozen=True, extra="forbid"):
    """Drops texts whose lines are no sentences; None turns a rule off."""

    kind: Literal["fineweb_quality"] = "fineweb_quality"
    min_ended_lines: float | None = 0.12
    """Share of lines that end in a mark that ends a sentence. Penedo et al. 2024, section 3.6."""
    allow_no_ended_line: bool = False
    """Keep texts in which no line ends so, as where the marks are not used. datatrove: line_punct_exclude_zero."""
    max_short_lines: float | None = 0.67
    """Share of lines of at most `short_line_length`. Penedo et al. 2024, section 3.6."""
    short_line_length: int = 30
    """Characters. Penedo et al. 2024, section 3.6: shorter than 30; datatrove: at most 30."""
    max_duplicate_line_characters: float | None = 0.01
    """Share of characters in lines that were there before. datatrove; Penedo et al. 2024, section 3.6: 0.1."""
    max_newlines_per_word: float | None = 0.3
    """datatrove: list_ratio 0.3; not in Penedo et al. 2024."""

    def build(self) -> Step:
        """Return the step."""
        return lambda document: fineweb_quality_reason(document.view, self)


def fineweb_quality_reason(view: TextView, rules: FineWebQuality) -> str | None:
    """Return why a text is dropped, None if it is kept."""
    lines = view.filled_lines
    if not lines:
        return "empty"
    if rules.min_ended_lines is not None:
        n_ended = sum(line[-1] in LINE_ENDS for line in lines)
        if n_ended / len(lines) < rules.min_ended_lines and (n_ended or not rules.allow_no_ended_line):
            return "line_punct_ratio"
    if rules.max_short_lines is not None:
        n_short = sum(len(line) <= rules.short_line_length for line in lines)
        if n_short / len(lines) > rules.max_short_lines:
            return "short_line_ratio"
    n_newlines = view.text.count("\n")
    if rules.max_duplicate_line_characters is not None:
        n_again = count_again(lines)[1]
        if n_again / (len(view.text) - n_newlines) > rules.max_duplicate_line_characters:
            return "char_dup_ratio"
    if rules.max_newlines_per_word is not None and n_newlines / len(view.words) > rules.max_newlines_per_word:
        return "list_ratio"
    return None
