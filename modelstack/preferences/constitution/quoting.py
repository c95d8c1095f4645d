"""Safe quotation of untrusted model texts in requests: bounded length, no control marks, fences.

A judged reply may try to influence its judge. It may write the line that ends its quotation, a turn of a chat
template, or enough text to hide the question. Each text is therefore a separate turn where possible. If two
replies must be in one message, each is fenced by a tag that is a hash of the quoted texts, so no text can
contain it on purpose. Marks of chat templates are broken up, because other servers may read content as control
tokens; models in this process never do (`tokenizer.chat`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from modelstack.tokenizer.template_marks import without_marks

CUT = "[... cut]"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Pattern of invisible characters: C0 except tab and line feed, C1, joiners, direction marks, unpaired
surrogates.
"""
_OPENING = re.compile(r"^\[[^\]\n]+ (?P<tag>[0-9a-f]{12})\]$", re.MULTILINE)


def quoted(text: str, most_characters: int) -> str:
    """Return a text that is safe in a message: no control characters, no template marks, limited length."""
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text, _ = without_marks(text)
    if len(text) <= most_characters:
        return text
    return text[: max(0, most_characters - len(CUT) - 1)] + f"\n{CUT}"


def fenced(texts: Sequence[tuple[str, str]]) -> str:
    """Return titled texts in sequence, each between an opening and a closing line.

    Args:
        texts: Pairs of a trusted title and an untrusted text.
    """
    tag = _tag([text for _, text in texts])
    return "\n\n".join(f"[{title} {tag}]\n{text}\n[end of {title} {tag}]" for title, text in texts)


def _tag(texts: Sequence[str]) -> str:
    """Return 12 hexadecimal digits that occur in none of the texts."""
    content = "\x1f".join(texts)
    number = 0
    while True:
        tag = hashlib.sha256(f"{number}\x1f{content}".encode()).hexdigest()[:12]
        if tag not in content:
            return tag
        number += 1


def unfenced(text: str) -> list[tuple[str, str]]:
    """Return the titled texts in the output of `fenced`; apparent fences within a text remain part of it."""
    opening = _OPENING.search(text)
    if opening is None:
        return []
    tag = re.escape(opening["tag"])
    whole = re.compile(
        rf"^\[(?P<title>[^\]\n]+) {tag}\]\n(?P<text>.*?)\n\[end of (?P=title) {tag}\]$", re.M | re.S
    )
    return [(found["title"], found["text"]) for found in whole.finditer(text)]
