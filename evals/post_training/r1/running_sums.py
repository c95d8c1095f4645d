"""The task: the sum of some digits modulo 5, where a thought adds them up one by one.

A small transformer cannot add nine digits modulo 5 in one pass, but can do one addition at a time if it writes the
running sum down, so thinking helps, and how much of it is needed grows with the number of digits. The form of the
text is what so small a model learns in minutes: a thought names the next digit and then the sum, so an addition
has both its terms beside it, and as a question has dots in the places that are empty, the next digit always stands
as many tokens back. Everything is made from a seed. Held-back problems are in no document, example or task of
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
"""Digits of a problem."""
MOST_SHOWN = 7
"""Digits of the longest sums that documents show worked out, in a form of their own."""
FACTS_OF_A_DOCUMENT = 8
SHARES = (0.10, 0.15, 0.75)
"""Of the documents: single additions, questions with their answers alone, sums worked out."""
WORKED, TOTAL = "\nAll summed up>", "so>"
"""Stand before a worked sum, and behind it before the answer. Each has as many tokens as stand there in a
conversation, and ends as a thought's marks end: what is copied next is found by the same token as far back.
Without that some bases learnt sums and never what to answer, and rewards undid the sums."""
BROKEN_OFF, SLIPPED = 0.25, 0.15
"""Of the cold start's examples: thoughts that leave out their last steps, and with a wrong addition in them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Digits to add up."""

    digits: tuple[int, ...]

    @property
    def question(self) -> str:
        """What is asked."""
        return f"{'+'.join([*map(str, self.digits), *'.' * (MOST - len(self.digits))])}=?"

    @property
    def answer(self) -> str:
        """What is right."""
        return str(sum(self.digits) % MODULUS)

    def steps(self) -> list[str]:
        """Return each digit with the running sum behind it."""
        return [
            f"{digit}{total % MODULUS}" for digit, total in zip(self.digits, accumulate(self.digits), strict=True)
        ]


def reply(steps: Sequence[str], answer: str) -> str:
    """Return a thought and an answer as one text."""
    return f"<think>{''.join(steps)}</think>{answer}"


def problems(draw: random.Random, n: int, taken: set[Problem]) -> list[Problem]:
    """Return n new problems and add them to those that are taken, as many of each length."""
    found: list[Problem] = []
    lengths = MOST - FEWEST + 1
    while len(found) < n:
        one = Problem(_digits(draw, FEWEST + len(found) % lengths))
        if one not in taken:
            taken.add(one)
            found.append(one)
    return found


def documents(draw: random.Random, n: int, held_back: set[Problem]) -> Iterator[str]:
    """Give the texts that a base is trained on."""
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
    """Give a reply to each problem as a cold start has them: readable, and not always right.

    One that breaks off answers with the last result that it came to; one with a slip carries it to the end.
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
    """Return an example to fine-tune on, as `sft.examples` reads it."""
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
    """Return a task to be rewarded on, as `reasoning.tasks.task` reads it."""
    return {"id": f"{name}-{number}", "prompt": one.question, "gold": one.answer, "license": "CC0-1.0"}


def _with_slip(draw: random.Random, one: Problem) -> list[str]:
    at, slip = draw.randrange(1, len(one.digits)), draw.randint(1, MODULUS - 1)
    return [str((int(step) + (slip if number >= at else 0)) % MODULUS) for number, step in enumerate(one.steps())]


def _new(draw: random.Random, fewest: int, most: int, held_back: set[Problem]) -> Problem:
    """Return a problem that is not held back."""
    while (one := Problem(_digits(draw, draw.randint(fewest, most)))) in held_back:
        continue
    return one


def _digits(draw: random.Random, n: int) -> tuple[int, ...]:
    return tuple(draw.randrange(MODULUS) for _ in range(n))
