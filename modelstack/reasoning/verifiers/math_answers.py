r"""Extracts the final answer of a mathematical solution.

Forms in order of precedence, each the last occurrence: `\boxed{...}` with balanced braces; the line after
`####`, as in GSM8K (Cobbe et al. 2021); "the answer is ..."; and, only if requested, the last number. Every
search takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

from modelstack.reasoning.verifiers.rewards import final_part

Place = Literal["boxed", "hashes", "sentence", "last number"]
MAX_DIGITS = 60
"""Maximum number of characters of a number; a longer one is ignored."""
MAX_ANSWER_CHARS = 1_000
"""Maximum number of characters of an answer; a longer one is ignored."""
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
"""Pattern of a number in running text, as in lm-evaluation-harness."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####")
_SENTENCE = re.compile(r"\bthe (?:final |correct )?answer is\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


class FinalAnswer(NamedTuple):
    """Extracted answer and the form in which it was found."""

    text: str
    place: Place


def final_answer(text: str, *, lenient: bool = False) -> FinalAnswer | None:
    """Return the answer of a solution, None if there is none. Reasoning before `</think>` is ignored.

    Args:
        text: Text of the completion.
        lenient: Whether the last number counts if no answer is marked. A policy then has no incentive to mark
            its answer.
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
    """Return the last number of a text as written; None if there is none."""
    found = None
    for match in FLEXIBLE.finditer(text):
        found = match
    return found.group(0) if found else None


def as_number(text: str) -> Decimal | None:
    """Return a number's value, ignoring commas, dollar signs and a final full stop; None if it is not one."""
    bare = text.replace(",", "").replace("$", "").rstrip(".")
    if not bare or len(bare) > MAX_DIGITS:
        return None
    try:
        return Decimal(bare)
    except InvalidOperation:
        return None


def _boxed(text: str) -> str | None:
    """Return the content of the last closed box; for nested boxes, the innermost content."""
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
    if len(content) > MAX_ANSWER_CHARS:  # too long for an answer; unwrapping it would take quadratic time
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
