r"""The final answer in a solution of mathematics.

In this order, each the last of its kind: `\boxed{...}` with balanced braces; the line behind `####`, as GSM8K
writes (Cobbe et al. 2021); "the answer is ..."; and, only where asked, the last number. Every search is linear in
the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

from modelstack.reasoning.verifiers.rewards import final_part

Place = Literal["boxed", "hashes", "sentence", "last number"]
MAX_DIGITS = 60
"""Of a number that is read; a longer one is none."""
MAX_ANSWER_CHARS = 1_000
"""Of an answer that is taken; a longer one is a text, not an answer."""
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
"""A number in running text, as lm-evaluation-harness finds it."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####")
_SENTENCE = re.compile(r"\bthe (?:final |correct )?answer is\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


class FinalAnswer(NamedTuple):
    """An answer and where it stood."""

    text: str
    place: Place


def final_answer(text: str, *, lenient: bool = False) -> FinalAnswer | None:
    """Return the answer of a solution, None where there is none. Reasoning before `</think>` is not looked at.

    Args:
        text: The completion.
        lenient: Whether the last number counts where nothing marks an answer. A policy then has no reason to say
            which of its numbers is the answer.
    """
    said = final_part(text)
    if said is None:
        return None
    for place, find in _MARKED:
        found = find(said)
        if found is not None:
            return FinalAnswer(found, place) if 0 < len(found) <= MAX_ANSWER_CHARS else None
    number = last_number_text(said) if lenient else None
    return None if number is None else FinalAnswer(number, "last number")


def last_number_text(text: str) -> str | None:
    """Return the last number of a text as it is written, None where there is none."""
    found = None
    for match in FLEXIBLE.finditer(text):
        found = match
    return found.group(0) if found else None


def as_number(text: str) -> Decimal | None:
    """Read a number with commas, a dollar sign or a full stop about it; None for what is no number."""
    bare = text.replace(",", "").replace("$", "").rstrip(".")
    if not bare or len(bare) > MAX_DIGITS:
        return None
    try:
        return Decimal(bare)
    except InvalidOperation:
        return None


def _boxed(text: str) -> str | None:
    """Return the content of the last box that is closed; of boxes in boxes, the innermost content."""
    opened: list[tuple[bool, int]] = []
    found: tuple[int, int] | None = None
    for match in _BOX.finditer(text):
        token = match.group()
        if token == "}":
            is_box, start = opened.pop() if opened else (False, 0)
            if is_box:
                found = (start, match.start())
        elif token.endswith("{") and token != "\\{":
            opened.append((token != "{", match.end()))
    if found is None:
        return None
    content = text[slice(*found)].strip()
    if len(content) > MAX_ANSWER_CHARS:  # it is no answer; looking inside would take its length squared
        return content
    while content.startswith(("\\boxed{", "\\fbox{")) and content.endswith("}"):
        content = content.partition("{")[2][:-1].strip()
    return content


def _behind_hashes(text: str) -> str | None:
    marks = list(_HASHES.finditer(text))
    if not marks:
        return None
    return text[marks[-1].end() :].lstrip(" \t").partition("\n")[0].strip().rstrip(".").strip()


def _in_sentence(text: str) -> str | None:
    marks = list(_SENTENCE.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :].lstrip(": \t\n")
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip(" *\t\n").rstrip(".").strip()


_MARKED: tuple[tuple[Place, Callable[[str], str | None]], ...] = (
    ("boxed", _boxed),
    ("hashes", _behind_hashes),
    ("sentence", _in_sentence),
)
