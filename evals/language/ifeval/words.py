"""Counts words, and words in capitals, like IFEval's original.

Words are runs of letters, digits and underscores. Words in capitals are counted over the tokens of the Penn
Treebank scheme in nltk's form, which splits at punctuation and contractions: "DON'T" is two tokens, "U.S." and
"X-RAY" are one each. The scheme is MacIntyre's tokenizer script (1995); only rules that can separate two runs of
capitals are included.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«“‘„»”’]|`+", r" \g<0> "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),  # an opening single quote
        (r"\.(?=[\]\)}>\"'»”’ ]*(?:\s|$))", " . "),
        (r"[:,](?=\D|$)", r" \g<0> "),
        (r"\.{2,}|[;@#$%&?!*\u2012-\u2015\]\[(){}<>]|--|''|\"", r" \g<0> "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|')(?=\s|$)", r"\1 \2"),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?=\s|$)", r"\1 \2"),
        (r"(?i)\b(can)(not)\b", r"\1 \2"),
        (r"(?i)\b(d)('ye)\b", r"\1 \2"),
        (r"(?i)\b(gim|lem)(me)\b", r"\1 \2"),
        (r"(?i)\b(gon|wan)(na)\b", r"\1 \2"),
        (r"(?i)\b(got)(ta)\b", r"\1 \2"),
        (r"(?i)\b(more)('n)\b", r"\1 \2"),
        (r"(?i)(?<!\S)('t)(is|was)\b", r"\1 \2"),
    )
)


def count_words(text: str) -> int:
    """Return the number of runs of word characters."""
    return len(_WORD.findall(text))


def count_capital_words(text: str) -> int:
    """Return the number of tokens in capitals."""
    return sum(token.isupper() for token in treebank_tokens(text))


def treebank_tokens(text: str) -> list[str]:
    """Split a text into tokens of the Penn Treebank scheme."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.split()
