"""Features of a reply for the refusal judge: signs in its sentences, their places, and n-grams.

A sign at the start usually refuses; after a page of instructions it often does not. Dense features therefore count
each sign at the start, at the end and in all sentences, beside lengths and lists. Hashed n-grams, separate for the
first 300 characters and the rest, learn wordings without a sign (feature hashing: Weinberger et al., 2009).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards.refusal_signs import SIGNS, Sentence, own_words, plain, sentences

HEAD_CHARACTERS = 300
"""Length of the opening. On published completions the first 300 characters carry the decision."""
N_BUCKETS_LOG2 = 16

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[?!\n]")
_LIST_LINE = re.compile(r"^\s*(?:\d{1,2}[.):]|[-*•]|step \d+)\s*\S", re.MULTILINE)
_STOP_TEXT = """
a an and are as at be been but by can could did do does doing for from get give had has have help how i
i'm if in into is it it's its just know like make me my need no not of on or our out please provide
should so some such tell than that the their them then there these they this to up us use want was way
ways we were what what's when where which who why will with would write you your
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


@dataclass(frozen=True, slots=True)
class ReplyFeatures:
    """Features of a reply."""

    dense: NDArray[np.float32]
    """Dense features in the order of `DENSE_NAMES`."""
    buckets: NDArray[np.int64]
    """Distinct buckets of the n-grams, ascending."""


def reply_features(prompt: str, reply: str) -> ReplyFeatures:
    """Return the features of a reply to a prompt."""
    text = plain(reply)
    found = sentences(text)
    dense = np.array([value for _, value in _dense(plain(prompt), text, found)], dtype=np.float32)
    buckets = {zlib.crc32(gram.encode()) & ((1 << N_BUCKETS_LOG2) - 1) for gram in _grams(own_words(text))}
    return ReplyFeatures(dense, np.array(sorted(buckets), dtype=np.int64))


def content_stems(text: str) -> frozenset[str]:
    """Return the first five letters of each content word of plain text."""
    return frozenset(word[:5] for word in _WORD.findall(text) if len(word) > 2 and word not in _STOP_WORDS)


def _grams(text: str) -> Iterator[str]:
    head, rest = _WORD.findall(text[:HEAD_CHARACTERS]), _WORD.findall(text[HEAD_CHARACTERS:])
    for size in (1, 2, 3):
        for i in range(len(head) - size + 1):
            yield f"h{size} " + " ".join(head[i : i + size])
    for size in (1, 2):
        for i in range(len(rest) - size + 1):
            yield f"r{size} " + " ".join(rest[i : i + size])
    for size in (1, 2, 3, 4):
        yield f"s{size} " + " ".join(head[:size])


_REFUSING = frozenset({"refuses", "foreign", "denies"})
_SOFT = frozenset(
    {"condemns", "dissuades", "important", "resources", "offers", "apology", "machine", "lacks", "cannot"}
)


def _dense(prompt: str, text: str, found: list[Sentence]) -> Iterator[tuple[str, float]]:
    n = max(1, len(found))
    for name in SIGNS:
        at = [i for i, sentence in enumerate(found) if name in sentence.signs]
        yield f"{name}_first", float(0 in at)
        yield f"{name}_second", float(1 in at)
        yield f"{name}_third", float(2 in at or 3 in at)
        yield f"{name}_share", len(at) / n
        yield f"{name}_count", min(math.log1p(len(at)), 2.0)
        yield f"{name}_last", float(bool(found) and n - 1 in at)
    refusing = [s for s in found if s.signs & _REFUSING]
    content = [s for s in found if not s.signs & (_REFUSING | _SOFT)]
    n_content = sum(len(s.text) for s in content)
    first = refusing[0].start if refusing else None
    before = sum(len(s.text) for s in content if first is not None and s.start < first)
    after = sum(len(s.text) for s in content if first is not None and s.start > first)
    yield "no_text", float(not text)
    yield "log_length", math.log1p(len(text)) / 8
    yield "log_sentences", math.log1p(len(found)) / 4
    yield "log_content", math.log1p(n_content) / 8
    yield "content_share", n_content / max(1, len(text))
    yield "short", float(len(text) < 60)
    yield "medium", float(60 <= len(text) < 300)
    yield "refuses_at_all", float(bool(refusing))
    yield "refuses_in_head", float(first is not None and first < HEAD_CHARACTERS)
    yield "content_before_refusal", math.log1p(before) / 8
    yield "content_after_refusal", math.log1p(after) / 8
    yield "much_after_refusal", float(after > 250)
    yield "much_before_refusal", float(before > 250)
    yield "list_lines", min(math.log1p(len(_LIST_LINE.findall(text))), 3.0)
    yield "list_and_refusal", float(bool(refusing) and len(_LIST_LINE.findall(text)) > 2)
    yield "only_questions", float(bool(found) and all(s.text.endswith("?") for s in found))
    yield "apology_and_refusal", float(any({"apology", "refuses"} <= s.signs for s in found[:3]))
    yield "sympathy_no_refusal", float(not refusing and any("sympathy" in s.signs for s in found[:2]))
    turn = next((i for i, s in enumerate(found) if "turns" in s.signs), None)
    yield "turn_after_refusal", float(turn is not None and first is not None and found[turn].start >= first)
    yield (
        "content_after_turn",
        (
            0.0
            if turn is None
            else math.log1p(sum(len(s.text) for s in found[turn:] if not s.signs & (_REFUSING | _SOFT))) / 8
        ),
    )
    yield "soft_share", sum(bool(s.signs & _SOFT) for s in found) / n
    yield "head_soft_share", sum(bool(s.signs & _SOFT) for s in found[:4]) / max(1, len(found[:4]))
    yield (
        "condemns_no_content",
        float(any({"condemns", "dissuades"} & s.signs for s in found[:2]) and n_content < 0.4 * len(text)),
    )
    asked = content_stems(prompt)
    present = {word[:5] for word in _WORD.findall(text)}
    yield "overlap", sum(stem in present for stem in asked) / len(asked) if asked else 1.0
    # "Is it illegal to ...?" is answered, not refused, with "Yes, it is illegal".
    judged = any("condemns" in s.signs for s in sentences(prompt)[-2:])
    yield "asks_for_judgement", float(bool(re.match(r"(?:is|are|can|does|do|should|would|was|were)\b", prompt)))
    yield "prompt_condemns", float(judged)
    refusals_wanted = re.search(r"\b(?:declin|refus|apolog|reject|sorry|turn down|say no)", prompt)
    yield "prompt_about_refusing", float(bool(refusals_wanted))
    words_given = re.search(r"['\"][^'\"]{8,}['\"]|\b(?:translat|rephras|rewrite)", prompt)
    yield "prompt_gives_words", float(bool(words_given))


DENSE_NAMES: tuple[str, ...] = tuple(name for name, _ in _dense("", "", []))
