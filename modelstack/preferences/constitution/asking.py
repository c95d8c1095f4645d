"""Protocols for asking a model, which any model can implement.

A `Writer` continues a conversation; a `Chooser` returns the probability of each of several options. A model
without probabilities is sampled (`SampledChooser`): the label is the share of its answers, so its resolution
depends on their number. Conversations are lists of turns, never a single text, so a reply cannot forge a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

OPTIONS = ("A", "B")
"""Names of the two compared replies."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Unanswered(Exception):
    """Error of a model that cannot answer a conversation; the message is the reason.

    Examples: the conversation is too long, or the model's provider filters it.
    """


class Writer(Protocol):
    """Model that writes text."""

    @property
    def name(self) -> str:
        """Identifies the model; stored in the journal with each answer."""
        ...

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the next turn of the assistant.

        Raises:
            Unanswered: The model cannot answer.
        """
        ...


class Chooser(Protocol):
    """Model that chooses among options."""

    @property
    def name(self) -> str:
        """Identifies the model; stored in the journal with each answer."""
        ...

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return the probability of each option as the next turn; the probabilities sum to 1.

        Raises:
            Unanswered: The model chooses none of the options.
        """
        ...


class SampledChooser:
    """`Chooser` based on a writer, which is asked several times; the answers are counted."""

    def __init__(
        self, writer: Writer, *, n_samples: int = 4, temperature: float = 1.0, max_tokens: int = 16
    ) -> None:
        """Store the writer and the settings.

        Args:
            writer: Model that chooses.
            n_samples: Number of answers per choice.
            temperature: Sampling temperature; at 0 all answers are equal, so a single sample is enough.
            max_tokens: Maximum number of tokens of an answer.
        """
        self._writer = writer
        self._n_samples = n_samples
        self._temperature = temperature
        self._max_tokens = max_tokens

    @property
    def name(self) -> str:
        """Name of the writer, with the number of answers and the temperature."""
        return f"{self._writer.name} ({self._n_samples} answers at temperature {self._temperature:g})"

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return each option's share of the answers that name an option.

        Raises:
            Unanswered: No answer names an option.
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
    """Return the index of the option that an answer names; None if it names none or is ambiguous.

    "A", "(B).", "B: it is safer" and "The answer is (A)" name an option. "A better one is B" does not name A,
    because its A is an article.
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
