"""C4's rules: remove lines that are not sentences, drop pages with few (Raffel et al. 2020, section 2.2).

Exploring the limits of transfer learning with a unified text-to-text transformer, JMLR 21, arXiv 1910.10683. The
implementation and the reasons follow datatrove 0.10.1. They include rules found only in the authors' code
(tensorflow/datasets, `c4_utils.py`): lines with a very long word, lines about cookies and terms of use, citation
marks. The order matters: a brace or "lorem ipsum" drops the page only if earlier rules keep its line.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Document, Step
from modelstack.data.text_view import TextView
from modelstack.data.words import count_sentences

POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
"""Phrases of policy notices, from tensorflow/datasets, c4_utils.py."""
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_LINE_ENDS = (".", "?", "!", '"', "'")


class C4(BaseModel, frozen=True, extra="forbid"):
    """Removes lines from a text and drops texts with too few sentences left; None disables a rule."""

    kind: Literal["c4"] = "c4"
    unit: Literal["line", "sentence"] = "line"
    """Unit that the line rules examine. Raffel et al. 2020, section 2.2: lines."""
    require_line_end: bool = True
    """Whether to remove lines without a sentence-ending mark. Raffel et al. 2020, section 2.2.

    FineWeb disables it: it removes about 30 % of the tokens (Penedo et al. 2024, arXiv 2406.17557, section 3.5).
    """
    min_sentences: int | None = 5
    """Minimum sentences left. Raffel et al. 2020, section 2.2, as quoted by datatrove; versions differ."""
    min_words_per_line: int | None = 3
    """Minimum words of a line, split at white space.

    Raffel et al. 2020, section 2.2, as datatrove; versions differ.
    """
    max_word_length: int | None = 1000
    """Maximum characters of a word; a longer word removes its line. tensorflow/datasets, c4_utils.py."""
    remove_citations: bool = True
    """Whether to remove "[3]", "[edit]", "[citation needed]". tensorflow/datasets, c4_utils.py."""
    drop_lorem_ipsum: bool = True
    """Whether to drop texts with "lorem ipsum". Raffel et al. 2020, section 2.2."""
    drop_curly_bracket: bool = True
    """Whether to drop texts with "{". Raffel et al. 2020, section 2.2."""
    remove_javascript: bool = True
    """Whether to remove lines with "javascript". Raffel et al. 2020, section 2.2."""
    remove_policies: bool = True
    """Whether to remove lines with one of `POLICY_PHRASES`. Raffel et al. 2020, section 2.2."""

    def build(self) -> Step:
        """Return the step."""

        def step(document: Document) -> str | None:
            text, reason = c4_text(document.view, self)
            # An unchanged text keeps its object identity, and thus its cached view.
            if reason is None and text != document.text:
                document.text = text
            return reason

        return step


class C4Paragraphs(BaseModel, frozen=True, extra="forbid"):
    """Drops texts with few long lines: mC4's rule (Xue et al. 2021, arXiv 2010.11934, section 3.1)."""

    kind: Literal["c4_paragraphs"] = "c4_paragraphs"
    min_paragraphs: int = 3
    """Minimum number of long lines. Xue et al. 2021, section 3.1."""
    min_paragraph_length: int = 200
    """Minimum characters of a long line. Xue et al. 2021, section 3.1."""

    def build(self) -> Step:
        """Return the step."""
        reason = f"< {self.min_paragraphs} paragraphs"

        def step(document: Document) -> str | None:
            n_long = sum(len(line) >= self.min_paragraph_length for line in document.text.split("\n"))
            return reason if n_long < self.min_paragraphs else None

        return step


def c4_text(view: TextView, rules: C4) -> tuple[str, str | None]:
    """Return the remaining text, and the reason to drop it or None."""
    kept: list[str] = []
    n_sentences = 0
    enough = rules.min_sentences or 0
    is_plain = _is_plain(view)
    for line in view.lines if rules.unit == "line" else view.sentences:
        line, action = _line_action(line.strip(), rules, is_plain)
        if action == "keep":
            if n_sentences < enough:
                n_sentences += count_sentences(line, enough - n_sentences) if rules.unit == "line" else 1
            kept.append(line)
        elif action != "remove":
            return view.text, action
    if n_sentences < enough:
        return view.text, "too_few_sentences"
    return ("\n" if rules.unit == "line" else " ").join(kept).strip(), None


def _is_plain(view: TextView) -> bool:
    """Whether the text contains nothing that the word and phrase rules match, so that they can be skipped."""
    lowered = view.lowered
    return not (
        "[" in lowered
        or "{" in lowered
        or "javascript" in lowered
        or "lorem ipsum" in lowered
        or any(phrase in lowered for phrase in POLICY_PHRASES)
    )


def _line_action(line: str, rules: C4, is_plain: bool) -> tuple[str, str]:
    """Return a line without citations, and "keep", "remove" or the reason to drop its text."""
    longest = rules.max_word_length
    if longest is not None and len(line) > longest and any(len(word) > longest for word in line.split()):
        return line, "remove"
    # As in datatrove, words are counted before citations are removed.
    fewest = rules.min_words_per_line
    is_short = fewest is not None and fewest > 0 and len(line.split(None, fewest - 1)) < fewest
    if rules.remove_citations and not is_plain:
        line = _CITATION.sub("", line)
    if rules.require_line_end and (not line.endswith(_LINE_ENDS) or line.endswith("...")):
        return line, "remove"
    if is_short:
        return line, "remove"
    if is_plain:
        return line, "keep"
    lowered = line.lower()
    if rules.drop_lorem_ipsum and "lorem ipsum" in lowered:
        return line, "lorem_ipsum"
    if rules.remove_javascript and "javascript" in lowered:
        return line, "remove"
    if rules.drop_curly_bracket and "{" in line:
        return line, "curly_bracket"
    if rules.remove_policies and any(phrase in lowered for phrase in POLICY_PHRASES):
        return line, "remove"
    return line, "keep"
