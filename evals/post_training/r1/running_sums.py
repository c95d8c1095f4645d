"""The task: the sum of some digits modulo 5; a thought adds them one by one.

A small transformer cannot add nine digits modulo 5 in one pass, but it can do one addition at a time if it writes
the running sum. Thinking therefore helps, and the required amount grows with the number of digits. The form of the
text allows so small a model to learn it in minutes: a thought names the next digit before the sum, so an addition
has both its terms next to it; a question has dots at empty places, so the next digit is always the same number of
tokens back. Everything is generated from a seed. Held-back problems occur in no document, example or task of
training.

    question: 3+4+1+0+2+.+.+.+.=?    thought: 33 42 13 03 20, without the blanks    answer: 0
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

MODULUS = 5
FEWEST, MOST = 5, 9
"""Minimum and maximum number of digits of a problem."""
MOST_SHOWN = 7
"""Maximum number of digits of worked sums in documents, which have their own form."""
FACTS_OF_A_DOCUMENT = 8
SHARES = (0.10, 0.15, 0.75)
"""Shares of documents: single additions, questions with answers only, worked sums."""
WORKED, TOTAL = "\nAll summed up>", "so>"
"""Texts before a worked sum, and between it and the answer. Each has as many tokens as the marks of a thought in a
conversation and ends with the same characters, so the next part to copy is found after the same token at the same
distance. Without this, some bases learned sums but never the answer, and rewards undid the sums."""
BROKEN_OFF, SLIPPED = 0.25, 0.15
"""Shares of cold-start examples whose thought lacks its last steps, and whose thought contains a wrong
addition."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Digits to add up."""

    digits: tuple[int, ...]

    @property
    def question(self) -> str:
        """The question's text."""
        return f"{'+'.join([*map(str, self.digits), *'.' * (MOST - len(self.digits))])}=?"

    @property
    def answer(self) -> str:
        """The correct answer."""
        return str(sum(self.digits) % MODULUS)

    def steps(self) -> list[str]:
        """Return each digit followed by the running sum."""
        return [
            f"{digit}{total % MODULUS}" for digit, total in zip(self.digits, accumulate(self.digits), strict=True)
        ]


def reply(steps: Sequence[str], answer: str) -> str:
    """Return a thought and an answer as one text."""
    return f"<think>{''.join(steps)}</think>{answer}"


def problems(draw: random.Random, n: int, taken: set[Problem]) -> list[Problem]:
    """Return `n` new problems, equally many of each length, and add them to `taken`."""
    found: list[Problem] = []
    lengths = MOST - FEWEST + 1
    while len(found) < n:
        one = Problem(_digits(draw, FEWEST + len(found) % lengths))
        if one not in taken:
            taken.add(one)
            found.append(one)
    return found


def documents(draw: random.Random, n: int, held_back: set[Problem]) -> Iterator[str]:
    """Yield the documents that a base is trained on."""
    for _ in range(n):
        (kind,) = draw.choices(("facts", "questions", "sums"), SHARES)
        if kind == "facts":
            pairs = [_digits(draw, 2) for _ in range(FACTS_OF_A_DOCUMENT)]
            yield " ".join(f"{a}+{b}={(a + b) % MODULUS}" for a, b in pairs)
        elif kind == "questions":
            one = _new(draw, FEWEST, MOST, held_back)
            yield f"{one.question} {one.answer}"
        else:
            one = _new(draw, 2, MOST_SHOWN, held_back)
            yield f"{one.question}{WORKED}{''.join(one.steps())}{TOTAL}{one.answer}"


def imperfect_replies(draw: random.Random, several: Sequence[Problem]) -> Iterator[str]:
    """Yield a cold-start reply to each problem: well-formed, but not always correct.

    A reply that breaks off answers with its last intermediate result; a reply with a slip carries the error to the
    end.
    """
    for one in several:
        kind = draw.random()
        steps = one.steps()
        if kind < BROKEN_OFF:
            steps = steps[: draw.randint(2, len(steps) - 1)]
        elif kind < BROKEN_OFF + SLIPPED:
            steps = _with_slip(draw, one)
        yield reply(steps, steps[-1][-1])


def example(number: int, one: Problem, text: str, source: str) -> dict[str, Any]:
    """Return a fine-tuning example in the format of `sft.examples`."""
    return {
        "id": f"{source}-{number}",
        "source": source,
        "license": "CC0-1.0",
        "kind": "answer",
        "messages": [{"role": "user", "content": one.question}],
        "calls": [],
        "reply": text,
    }


def task(number: int, one: Problem, name: str) -> dict[str, Any]:
    """Return a reinforcement task in the format of `reasoning.tasks.task`."""
    return {"id": f"{name}-{number}", "prompt": one.question, "gold": one.answer, "license": "CC0-1.0"}


def _with_slip(draw: random.Random, one: Problem) -> list[str]:
    at, slip = draw.randrange(1, len(one.digits)), draw.randint(1, MODULUS - 1)
    return [str((int(step) + (slip if number >= at else 0)) % MODULUS) for number, step in enumerate(one.steps())]


def _new(draw: random.Random, fewest: int, most: int, held_back: set[Problem]) -> Problem:
    """Return a random problem that is not held back."""
    while (one := Problem(_digits(draw, draw.randint(fewest, most)))) in held_back:
        continue
    return one


def _digits(draw: random.Random, n: int) -> tuple[int, ...]:
    return tuple(draw.randrange(MODULUS) for _ in range(n))
