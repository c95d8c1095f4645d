"""Rules on listed words: spam, pornography, insults. The package ships no list; the user provides one.

C4 dropped every page with a word from the "List of Dirty, Naughty, Obscene or Otherwise Bad Words" (Raffel et al.
2020, section 2.2). That also drops texts about health and about the people insulted by such words (Dodge et al.
2021, arXiv 2104.08758). `WordList` can therefore require a minimum share of listed words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.errors import UserError

_RUN_OF_WORD_CHARACTERS = re.compile(r"\w+")
MAX_LIST_BYTES = 16_000_000


class C4BadWords(BaseModel, frozen=True, extra="forbid"):
    """Drops texts with a word or phrase of a list, ignoring case."""

    kind: Literal["c4_bad_words"] = "c4_bad_words"
    words: tuple[str, ...] = ()
    """Words or phrases of the list."""
    file: Path | None = None
    """File with one word or phrase per line, in addition to `words`."""
    keep_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of matching texts that is kept, chosen by id. Raffel et al. 2020, section 2.2: none."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: The list is empty, or its file cannot be read.
        """
        find = word_finder(_words_of(self.kind, self.words, self.file))

        def step(document: Document) -> str | None:
            if (
                next(iter(find(document.view.lowered)), None) is None
                or _share_of(document.id) < self.keep_fraction
            ):
                return None
            return "document_removed_with_badwords"

        return step


class WordList(BaseModel, frozen=True, extra="forbid"):
    """Drops texts with many words or phrases of a list, ignoring case."""

    kind: Literal["word_list"] = "word_list"
    name: str
    """Name of the list in the reason: "spam" gives `word_list_spam`."""
    words: tuple[str, ...] = ()
    """Words or phrases of the list."""
    file: Path | None = None
    """File with one word or phrase per line, in addition to `words`."""
    max_hits: int = 0
    """Maximum hits; a text is dropped if it exceeds both this and `max_share`. Not from a paper (our choice)."""
    max_share: float = 0.0
    """Maximum hits as a share of the text's words, split at white space. Not from a paper (our choice)."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: The list is empty, or its file cannot be read.
        """
        find = word_finder(_words_of(self.name, self.words, self.file))
        reason = f"word_list_{self.name}"

        def step(document: Document) -> str | None:
            view = document.view
            n_hits = sum(1 for _ in find(view.lowered))
            document.metadata[reason] = n_hits
            if n_hits > self.max_hits and n_hits > self.max_share * len(view.chunks):
                return reason
            return None

        return step


def word_finder(words: Iterable[str]) -> Callable[[str], Iterable[str]]:
    """Return a function that yields every occurrence of listed words and phrases in a lower-case text.

    A word matches only without an adjacent letter, digit or underscore. Time is linear in the text, independent of
    the number of words; each phrase adds one search.
    """
    listed = {word.strip().lower() for word in words} - {""}
    single = frozenset(word for word in listed if _RUN_OF_WORD_CHARACTERS.fullmatch(word))
    phrases = [(phrase, re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)")) for phrase in sorted(listed - single)]

    def find(text: str) -> Iterable[str]:
        for run in _RUN_OF_WORD_CHARACTERS.findall(text):
            if run in single:
                yield run
        for phrase, pattern in phrases:
            if phrase in text:
                yield from pattern.findall(text)

    return find


def _words_of(name: str, words: tuple[str, ...], file: Path | None) -> list[str]:
    listed = list(words)
    if file is not None:
        try:
            if file.stat().st_size > MAX_LIST_BYTES:
                raise UserError(f"word list {file} is larger than {MAX_LIST_BYTES:,} bytes; split it")
            listed += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"word list {file} cannot be read: {error}") from error
    listed = [word for word in listed if word.strip()]
    if not listed:
        raise UserError(f"word list {name!r} is empty; give `words`, or a `file` with one entry per line")
    return listed


def _share_of(document_id: str) -> float:
    """Return a number in [0, 1) that depends only on the id."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8]) / 2**64
