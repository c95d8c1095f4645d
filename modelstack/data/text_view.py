"""Words, lines and sentences of a text, found once and shared by all rules.

Most of a rule's time goes into splitting; datatrove's filters each split again. Nothing is found before it is
asked for, and what was found stays as long as the text does.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property

from modelstack.data.words import split_sentences, words_of_chunks

_BLANK_LINES = re.compile(r"\n{2,}")


class TextView:
    """A text as rules look at it."""

    def __init__(self, text: str) -> None:
        """Look at a text; nothing is found before it is asked for."""
        self.text = text

    @cached_property
    def chunks(self) -> list[str]:
        """What stands between white space: words with the marks beside them."""
        return self.text.split()

    @cached_property
    def words(self) -> list[str]:
        """Words, punctuation marks among them (`modelstack.data.words`)."""
        return words_of_chunks(self.chunks)

    @cached_property
    def word_counts(self) -> Counter[str]:
        """How often each word occurs."""
        return Counter(self.words)

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences with the white space before each; joined, they are the text."""
        return split_sentences(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Lines without what separates them (`str.splitlines`), empty ones too."""
        return self.text.splitlines()

    @cached_property
    def filled_lines(self) -> list[str]:
        r"""What lies between `\n` and is not blank."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        r"""What lies between two or more `\n` of the stripped text."""
        return _BLANK_LINES.split(self.text.strip())

    @cached_property
    def lowered(self) -> str:
        """The text in lower case."""
        return self.text.lower()
