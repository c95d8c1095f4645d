"""Marks: special tokens that a convention writes, represented by characters that no content can contain.

`<tool_call>` is a single token in Qwen's vocabulary, and content that spells it must never become that token.
Grammars therefore see such a token as a lone surrogate: decoded text contains none, and the recogniser, its plans
and its prices work with plain strings. A name that is not a special token of the vocabulary stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from modelstack.tokenizer.vocabulary import Vocabulary

_FIRST = 0xD800
MOST_MARKS = 0x400
"""Number of high surrogates; the low ones stand for bytes that are not UTF-8 (`surrogateescape`)."""


class Marks:
    """The special tokens of one vocabulary that a convention writes."""

    def __init__(self, vocabulary: Vocabulary | None = None, names: Iterable[str] = ()) -> None:
        """Find the tokens of `names`; without a vocabulary all names are text."""
        self.ids: dict[str, int] = {}
        """Token of each stand-in character."""
        self.names: dict[str, str] = {}
        """Text of each stand-in character."""
        wanted = {name.encode(): name for name in names}
        special = vocabulary.special_ids if vocabulary is not None and wanted else ()
        for token in sorted(special):
            name = wanted.pop(vocabulary.token_bytes[token], None) if vocabulary is not None else None
            if name is not None and len(self.ids) < MOST_MARKS:
                character = chr(_FIRST + len(self.ids))
                self.ids[character] = token
                self.names[character] = name
        self.characters = {token: character for character, token in self.ids.items()}
        """Stand-in character of each token."""
        self._pattern = _any_of(self.names.values())
        self._by_name = {name: character for character, name in self.names.items()}
        self._cut = re.compile("([" + "".join(self.ids) + "])") if self.ids else None

    def bound(self, text: str) -> str:
        """Return a text of the convention with stand-ins for the names of special tokens."""
        return self._pattern.sub(lambda match: self._by_name[match.group()], text)

    def spelled(self, text: str) -> str:
        """Return text with the names of special tokens in place of their stand-ins."""
        return "".join(self.names.get(character, character) for character in text) if self.names else text

    def pieces(self, text: str) -> list[str]:
        """Return text cut so that each stand-in is a piece of its own; no piece is empty."""
        return [piece for piece in self._cut.split(text) if piece] if self._cut is not None else [text]


def is_mark(character: str) -> bool:
    """Return whether a character is a stand-in."""
    return "\ud800" <= character <= "\udbff"


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
