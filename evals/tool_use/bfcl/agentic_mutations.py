"""Test answers for comparing the two agentic checkers: acceptable answers in several phrasings, and mutations.

This module does not say whether an answer is correct; both checkers decide that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

IGNORED_SIGNS = ",./-_*^()"
OTHER_SIGNS = "$%&;:!?'\"#@+=~"
Change = Callable[[str, random.Random], str]


def gold_answers(acceptable: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (kind, answer) for phrasings of every acceptable answer that a fair reader would accept."""
    for option in acceptable:
        yield "gold: answer", option
        yield "gold: sentence", f"The answer is {option}."
        yield "gold: among lines", f"I looked it up.\n{option}\nAnything else?"
        yield "gold: emphasis", f"It is **{option}**, as far as I know"
        yield "gold: upper case", option.upper()


def spoiled_answers(
    acceptable: Sequence[str], others: Sequence[str], rounds: int, draw: random.Random
) -> Iterator[tuple[str, str]]:
    """Yield (kind, answer) with one mutation each, alone or in a sentence; `others` are answers of other items."""
    yield "answer: empty", ""
    yield "answer: none of it", "I do not know."
    yield "answer: of another item", draw.choice(others)
    for option in acceptable:
        for _ in range(rounds):
            for name, change in CHANGES.items():
                spoiled = change(option, draw)
                yield f"answer: {name}", spoiled if draw.random() < 0.5 else f"I would say {spoiled} - surely"


def _insert(text: str, signs: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(signs) + text[at:]


def _drop(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text))
    return text[:at] + text[at + 1 :]


def _swap_words(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    draw.shuffle(words)
    return " ".join(words)


def _drop_word(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    words.pop(draw.randrange(len(words)))
    return " ".join(words)


CHANGES: dict[str, Change] = {
    "ignored sign inside": lambda text, draw: _insert(text, IGNORED_SIGNS, draw),
    "other sign inside": lambda text, draw: _insert(text, OTHER_SIGNS, draw),
    "character dropped": _drop,
    "character doubled": lambda text, draw: _insert(text, text, draw),
    "letter before": lambda text, draw: draw.choice("aZ9é_") + text,
    "letter behind": lambda text, draw: text + draw.choice("aZ9é_"),
    "sign before": lambda text, draw: draw.choice(OTHER_SIGNS + IGNORED_SIGNS) + text,
    "sign behind": lambda text, draw: text + draw.choice(OTHER_SIGNS + IGNORED_SIGNS),
    "space inside": lambda text, draw: _insert(text, " \t\n\u00a0", draw),
    "spaces dropped": lambda text, draw: text.replace(" ", ""),
    "words shuffled": _swap_words,
    "word dropped": _drop_word,
    "case mixed": lambda text, draw: "".join(draw.choice((c.upper(), c.lower())) for c in text),
    "wide letters": lambda text, draw: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "backwards": lambda text, draw: text[::-1],
}
