"""RefinedWeb's line-wise corrections: removal of leftover page elements (Penedo et al. 2023, G.2).

arXiv 2306.01116; exact rules and order of DCLM's reimplementation (Li et al. 2024, arXiv 2406.11794;
mlfoundations/dclm, `dclm_baseline_refinedweb.yaml`). A page that loses more than 5 % of its words consisted mostly
of such elements and is dropped. Words are split at white space and start with a letter or digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Document, Step

_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COUNTED = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
_COUNTER = re.compile(rf"\d[\d,.]*[kmb]?\s+(?:{_COUNTED})\W*\Z")
_NOT_WORD = re.compile(r"\W*")
_ITEMS_IN_CART = re.compile(r"\s?items in cart", re.IGNORECASE)
_READ_MORE = re.compile(r"\s?read more\.\.\.\Z", re.IGNORECASE)
_SIGN_IN = re.compile(r"\Asign-in\s?", re.IGNORECASE)


class RefinedWebLines(BaseModel, frozen=True, extra="forbid"):
    """Removes lines from a text and drops it if too many words were removed; the metadata records the share."""

    kind: Literal["refinedweb_lines"] = "refinedweb_lines"
    max_capitals: float = 0.5
    """Maximum share of capitals in a line. Penedo et al. 2023, G.2: "mainly composed of uppercase"; DCLM: 0.5."""
    min_words: int = 2
    """Minimum words of a non-empty line, split at white space. Penedo et al. 2023, G.2: no lines of one word."""
    max_words_of_phrases: int = 10
    """Maximum words of lines checked for "items in cart", "read more...", "sign-in". Penedo et al. 2023, G.2."""
    max_removed_words: float = 0.05
    """Maximum share of the text's words that may be removed. Penedo et al. 2023, G.2."""

    def build(self) -> Step:
        """Return the step."""

        def step(document: Document) -> str | None:
            text = corrected(document.text, self)
            n_words = _n_words(document.text)
            if not n_words or not text:
                return "refinedweb_empty"
            removed = (n_words - _n_words(text)) / n_words
            document.metadata["refinedweb_removed_words"] = round(removed, 4)
            if removed > self.max_removed_words:
                return "refinedweb_removed_words"
            if text != document.text:
                document.text = text
            return None

        return step


def corrected(text: str, rules: RefinedWebLines) -> str:
    """Return a text without the removed lines and phrases."""
    keeps: tuple[Callable[[str], bool], ...] = (
        lambda line: _n_capitals(line) / len(line) <= rules.max_capitals,
        # As in DCLM, "²" counts as a digit.
        lambda line: not all(map(str.isdigit, line)),
        lambda line: not _is_counter(line),
    )
    for keep in keeps:
        # As in DCLM, a line that becomes the first one loses its leading white space.
        text = "\n".join(line for line in text.split("\n") if not line or keep(line)).strip()
    text = "\n".join(line for line in text.split("\n") if not line or len(line.split()) >= rules.min_words)
    for phrase in (_ITEMS_IN_CART, _READ_MORE, _SIGN_IN):
        lines = (_without(phrase, line, rules.max_words_of_phrases) for line in text.split("\n"))
        text = "\n".join(line for line in lines if line is not None).strip()
    return text


def _without(phrase: re.Pattern[str], line: str, max_words: int) -> str | None:
    """Return a short line without a phrase, None if nothing remains; longer lines are unchanged."""
    if len(line.split(None, max_words)) > max_words:
        return line
    rest = phrase.sub("", line)
    return None if line and not rest.strip() else rest


def _n_capitals(line: str) -> int:
    if line.isascii():
        return sum(map(line.count, _CAPITALS))
    return sum(map(str.isupper, line))


def _is_counter(line: str) -> bool:
    """Whether a line is a counter of likes, shares or views, such as "12 likes"."""
    lowered = line.lower()
    begin = _NOT_WORD.match(lowered)
    return _COUNTER.match(lowered, begin.end() if begin else 0) is not None


def _n_words(text: str) -> int:
    return sum(word[0].isalnum() for word in text.split())
