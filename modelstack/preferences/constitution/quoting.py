"""Texts of models inside requests to models: bounded, without marks of control, fenced so that nothing escapes.

A reply that is judged wants to be judged well. It may write the line that ends its own quotation, a turn of a chat
template, or so much that the question is lost. Turns are messages wherever the conversation has a place for them;
where two replies must stand in one message, each is fenced by a tag that is a hash of the quoted texts themselves,
which no text can contain knowingly. Chat templates of other people's servers are broken up, because they may read
content as control; models in this process never do (`tokenizer.chat`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

CUT = "[... cut]"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Characters that are not seen: C0 without tab and line feed, C1, joiners, directions, halves of pairs."""
_MARKS = re.compile(
    r"<\|[^|<>\n]{1,60}\|>|<｜[^｜<>\n]{1,60}｜>|</?s>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]"
    r"|<</?SYS>>|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk)>",
    re.IGNORECASE,
)
"""Turns of ChatML, Llama 2 and 3, Mistral, Gemma, DeepSeek, and the names of begin and end tokens."""

_OPENING = re.compile(r"^\[[^\]\n]+ (?P<tag>[0-9a-f]{12})\]$", re.MULTILINE)


def has_marks(text: str) -> bool:
    """Whether a text spells a control token of a common chat template."""
    return _MARKS.search(text) is not None


def quoted(text: str, most_characters: int) -> str:
    """Return a text as it may stand in a message: no control characters, no template marks, not too long."""
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _MARKS.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    if len(text) <= most_characters:
        return text
    return text[: max(0, most_characters - len(CUT) - 1)] + f"\n{CUT}"


def fenced(texts: Sequence[tuple[str, str]]) -> str:
    """Return titled texts one below the other, each between a line that opens and a line that closes it.

    Args:
        texts: Title, which is ours, and text, which is not.
    """
    tag = _tag([text for _, text in texts])
    return "\n\n".join(f"[{title} {tag}]\n{text}\n[end of {title} {tag}]" for title, text in texts)


def _tag(texts: Sequence[str]) -> str:
    """Return 12 hexadecimal digits that none of the texts contains."""
    content = "\x1f".join(texts)
    number = 0
    while True:
        tag = hashlib.sha256(f"{number}\x1f{content}".encode()).hexdigest()[:12]
        if tag not in content:
            return tag
        number += 1


def unfenced(text: str) -> list[tuple[str, str]]:
    """Return the titled texts that `fenced` wrote; whatever looks like a fence within one of them is its text."""
    opening = _OPENING.search(text)
    if opening is None:
        return []
    tag = re.escape(opening["tag"])
    whole = re.compile(
        rf"^\[(?P<title>[^\]\n]+) {tag}\]\n(?P<text>.*?)\n\[end of (?P=title) {tag}\]$", re.M | re.S
    )
    return [(found["title"], found["text"]) for found in whole.finditer(text)]
