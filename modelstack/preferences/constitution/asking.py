"""What a model is asked and how it answers: two small protocols that any model can stand behind.

A `Writer` continues a conversation; a `Chooser` says how probable each of some options is. Who has no
probabilities is sampled (`SampledChooser`): the share of its answers is then the label, as soft as there are
answers. Conversations are turns, never one text, so a reply cannot forge a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

OPTIONS = ("A", "B")
"""What two replies are called."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Unanswered(Exception):
    """A model has no answer to this conversation, now or later: too long for it, filtered; the text says why."""


class Writer(Protocol):
    """A model that writes."""

    @property
    def name(self) -> str:
        """What tells this model from others; a journal keeps it with each answer."""
        ...

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the next turn of the assistant.

        Raises:
            Unanswered: There is none.
        """
        ...


class Chooser(Protocol):
    """A model that chooses."""

    @property
    def name(self) -> str:
        """As a writer's."""
        ...

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return the probability of each option as the next turn; they sum to 1.

        Raises:
            Unanswered: It chooses none of them.
        """
        ...


class SampledChooser:
    """A `Chooser` of a model that only writes: it is asked several times, and its answers are counted."""

    def __init__(
        self, writer: Writer, *, n_samples: int = 4, temperature: float = 1.0, max_tokens: int = 16
    ) -> None:
        """Ask a writer.

        Args:
            writer: Who chooses.
            n_samples: Answers of one choice.
            temperature: 0 gives one answer again and again: then one sample is enough.
            max_tokens: Of an answer.
        """
        self._writer = writer
        self._n_samples = n_samples
        self._temperature = temperature
        self._max_tokens = max_tokens

    @property
    def name(self) -> str:
        """The writer's, and how it is asked."""
        return f"{self._writer.name} ({self._n_samples} answers at temperature {self._temperature:g})"

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return each option's share of the answers that name one.

        Raises:
            Unanswered: No answer names one.
        """
        counts = [0] * len(options)
        for number in range(self._n_samples):
            text = await self._writer.write(
                turns, seed=seed + number, max_tokens=self._max_tokens, temperature=self._temperature
            )
            chosen = named_option(text, options)
            if chosen is not None:
                counts[chosen] += 1
        total = sum(counts)
        if total == 0:
            raise Unanswered(f"none of {self._n_samples} answers names one of {', '.join(options)}")
        return tuple(count / total for count in counts)


def named_option(text: str, options: Sequence[str] = OPTIONS) -> int | None:
    """Return which option an answer names, None where it names none or it cannot be told which.

    "A", "(B).", "B: it is safer", "The answer is (A)" are answers; "A better one is B" names none at its
    beginning, because its A is an article.
    """
    letters = "|".join(re.escape(option) for option in options)
    start = re.match(rf"[\s(\[\"'*]*({letters})(?=[)\].,:;*\"'\n]|\s*$)", text)
    if start:
        return list(options).index(start[1])
    marks = re.findall(
        rf"\b(?:answer|choice|option|choose|prefer)(?: is)?:?\s*[(\[*\"']*({letters})\b(?!\s+[a-z])", text
    )
    named = {*marks}
    return list(options).index(marks[0]) if len(named) == 1 else None
