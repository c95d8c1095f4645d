"""Words, lines and sentences of a text, computed once and shared by all rules.

Most of a rule's time goes into splitting; datatrove's filters each split again. Every part is computed on first
access and cached as long as the text.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property

from modelstack.data.words import split_sentences, words_of_chunks

_BLANK_LINES = re.compile(r"\n{2,}")


class TextView:
    """A text with lazily computed, cached parts."""

    def __init__(self, text: str) -> None:
        """Hold a text; parts are computed on first access."""
        self.text = text

    @cached_property
    def chunks(self) -> list[str]:
        """Parts between white space: words with adjacent punctuation marks."""
        return self.text.split()

    @cached_property
    def words(self) -> list[str]:
        """Words, including punctuation marks (`modelstack.data.words`)."""
        return words_of_chunks(self.chunks)

    @cached_property
    def word_counts(self) -> Counter[str]:
        """Number of occurrences of each word."""
        return Counter(self.words)

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences, each with its preceding white space; joined, they are the text."""
        return split_sentences(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their separators (`str.splitlines`), including empty ones."""
        return self.text.splitlines()

    @cached_property
    def filled_lines(self) -> list[str]:
        r"""Lines separated by `\n` that are not blank."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        r"""Paragraphs of the stripped text, separated by two or more `\n`."""
        return _BLANK_LINES.split(self.text.strip())

    @cached_property
    def lowered(self) -> str:
        """The text in lower case."""
        return self.text.lower()
