"""Words inside words: parts of camelCase names, and characters of scripts written without spaces.

FTS5's tokenizer treats `getUserName` as one word, and a whole Chinese clause too. (`snake_case` is split at the
underscores.) Such words are written again, split, into a separate column, and a query matches a name as written or
as the sequence of its parts. So `userName`, `user_name` and `user name` find each other.
"""

from __future__ import annotations

import re

_CAMEL_BORDER = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Han, Hiragana, Katakana, and Hangul, where words include their endings.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD = re.compile(r"\w+")
# Longer "names" are base64 and hashes, whose parts are not searched for.
MAX_NAME_CHARS = 64


def taken_apart(text: str) -> str:
    """Return `text` with spaces between the parts of names and around unspaced characters."""
    return _WORD.sub(lambda word: _apart(word[0]), text)


def parts_in(text: str) -> str:
    """Return the words of `text` that can be split, in split form and without duplicates."""
    if text.isascii() and not _CAMEL_BORDER.search(text):
        return ""
    # Most words are in lower case; skipping them first saves a third of the time.
    words = dict.fromkeys(word for word in _WORD.findall(text) if not (word.islower() and word.isascii()))
    return " ".join(apart for word in words if (apart := _apart(word)) != word)


def _apart(word: str) -> str:
    if len(word) <= MAX_NAME_CHARS:
        word = _CAMEL_BORDER.sub(" ", word)
    return word if word.isascii() else " ".join(_UNSPACED.sub(r" \g<0> ", word).split())
