"""AI feedback: a model judges which of two replies is better under a principle (2212.08073, section 4).

The soft label is the judge's normalised probability of one reply. Judges prefer a position, mostly the first, so
each pair is shown in both orders and the probabilities are averaged (Lee et al., RLAIF, 2309.00267); the
difference is reported as position bias. A judge that reasons first becomes overconfident, so those labels are
clamped to 0.4 and 0.6, as in the paper.

Pairwise losses use a choice without its probability. A label becomes a pair if it is at least `min_margin` from
one half. The mean remaining doubt is reported, for use as `label_smoothing` of the loss `cdpo`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, Field, model_validator

from modelstack.preferences.constitution.asking import OPTIONS, Chooser, Turn, Unanswered, Writer
from modelstack.preferences.constitution.critique import SOURCE
from modelstack.preferences.constitution.prompts import Prompt
from modelstack.preferences.constitution.quoting import fenced, quoted
from modelstack.preferences.constitution.schema import Constitution, Principle, drawn
from modelstack.preferences.examples import Preference, Reply
from modelstack.tokenizer.template_marks import has_marks

CLAMP = (0.4, 0.6)
"""Bounds of labels given after reasoning, from the paper."""
_REASON = (
    "Think it through first: say in a few sentences what speaks for each reply under that question. Do not "
    "decide yet."
)
_DECIDE = f"Now decide. Answer with {OPTIONS[0]} or {OPTIONS[1]} alone."
_ASK = f"Answer with {OPTIONS[0]} or {OPTIONS[1]} alone."


class FeedbackSettings(BaseModel, frozen=True, extra="forbid"):
    """Settings of the preference stage."""

    reply_tokens: int = Field(default=256, ge=1)
    """Maximum number of tokens of a reply."""
    reply_temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of the two compared replies; at 0 they would be equal."""
    chain_of_thought: bool = False
    """Whether the judge reasons before it chooses."""
    thought_tokens: int = Field(default=200, ge=1)
    """Maximum number of tokens of the judge's reasoning."""
    thought_temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of the judge's reasoning."""
    clamp: tuple[float, float] = CLAMP
    """Bounds of labels given after reasoning."""
    min_margin: float = Field(default=0.1, ge=0, lt=0.5)
    """Minimum distance of a label from one half to become a pair."""
    most_characters: int = Field(default=6000, ge=200)
    """Maximum number of characters of a text shown to the judge; the rest is cut off. A longer reply becomes no
    pair."""

    @model_validator(mode="after")
    def _can_give_pairs(self) -> Self:
        low, high = self.clamp
        if not 0 <= low < 0.5 < high <= 1:
            raise ValueError(f"clamp is {list(self.clamp)}; it must satisfy 0 <= low < 0.5 < high <= 1")
        if self.chain_of_thought and self.min_margin > min(0.5 - low, high - 0.5) + 1e-9:
            raise ValueError(
                f"min_margin = {self.min_margin} cannot be reached: chain_of_thought clamps labels to the range "
                f"{low} to {high}; lower min_margin or widen clamp"
            )
        return self


class Shown(BaseModel, frozen=True):
    """Judgement of a pair in one order."""

    p_first_shown: float
    """Probability of the reply shown first."""
    thought: str | None = None


class Comparison(BaseModel, frozen=True):
    """Record of the stage for one pair of replies."""

    prompt: Prompt
    replies: tuple[str, str]
    principle: str
    shown: tuple[Shown, ...] = ()
    """Judgements with the replies in order and in reverse order."""
    label: float | None = None
    """Probability that the first of `replies` is better: the mean of both orders, clamped after reasoning."""
    left_out: str | None = None
    """Reason why there is no label or no pair; None if there is a pair."""

    @property
    def position_bias(self) -> float | None:
        """Increase of a reply's probability by being shown first; 0: none, 0.5: the position alone decides."""
        if len(self.shown) != 2:
            return None
        return sum(each.p_first_shown for each in self.shown) / 2 - 0.5

    @property
    def preference(self) -> Preference | None:
        """Preference pair; None without one."""
        if self.label is None or self.left_out is not None:
            return None
        chosen, rejected = self.replies if self.label > 0.5 else self.replies[::-1]
        return Preference(
            id=self.prompt.id,
            source=SOURCE,
            license=self.prompt.license,
            messages=self.prompt.messages,
            chosen=Reply(reply=chosen),
            rejected=Reply(reply=rejected),
        )


@dataclass(frozen=True, slots=True)
class Judges:
    """Models and settings of the preference stage."""

    constitution: Constitution
    settings: FeedbackSettings
    seed: int
    replier: Writer
    """Model in training; it writes the replies that a prompt lacks."""
    chooser: Chooser
    thinker: Writer
    """Model that reasons before the choice; usually the same as the chooser."""


async def compare(prompt: Prompt, by: Judges) -> Comparison:
    """Run the preference stage on a prompt.

    Args:
        prompt: Prompt. Its own replies are compared; the replier writes the missing ones.
        by: Models and settings.
    """
    principle = drawn(by.constitution.choosing, by.seed, prompt.id, "choice")
    replies, shown = ("", ""), list[Shown]()
    try:
        replies = await _replies(prompt, by)
        fault = _fault_of(replies, by.settings)
        if fault is None:
            shown = [await _shown(prompt, pair, principle, by) for pair in (replies, replies[::-1])]
    except Unanswered as error:
        fault = f"unanswered: {error}"
    label = None
    if fault is None:
        label = averaged(shown[0].p_first_shown, shown[1].p_first_shown)
        if by.settings.chain_of_thought:
            label = min(max(label, by.settings.clamp[0]), by.settings.clamp[1])
        if abs(label - 0.5) < max(by.settings.min_margin - 1e-9, 1e-9):
            fault = "undecided"
    return Comparison(
        prompt=prompt, replies=replies, principle=principle.id, shown=tuple(shown), label=label, left_out=fault
    )


def averaged(p_when_first: float, p_first_when_second: float) -> float:
    """Return the probability that a reply is better, averaged over both orders.

    Args:
        p_when_first: Probability of the reply when shown first.
        p_first_when_second: Probability of the other reply when that one was shown first.
    """
    return (p_when_first + (1 - p_first_when_second)) / 2


def normalised(log_probabilities: Sequence[float]) -> tuple[float, ...]:
    """Return probabilities normalised over the options.

    Args:
        log_probabilities: Natural log-probability of each option as the model's next words.
    """
    most = max(log_probabilities)
    weights = [math.exp(each - most) for each in log_probabilities]
    return tuple(weight / sum(weights) for weight in weights)


def choice_turns(
    constitution: Constitution,
    prompt: Prompt,
    replies: Sequence[str],
    principle: Principle,
    settings: FeedbackSettings,
) -> list[Turn]:
    """Return the question which reply is better, without the instruction on the form of the answer."""
    assert principle.choice is not None  # holds for all principles in `choosing`
    told = "\n\n".join(text for text in (constitution.judge, constitution.classes_text) if text)
    texts = [(message.role, quoted(message.content, settings.most_characters)) for message in prompt.messages]
    texts += [
        (f"reply {option}", quoted(reply, settings.most_characters))
        for option, reply in zip(OPTIONS, replies, strict=True)
    ]
    return [Turn("system", told), Turn("user", f"{fenced(texts)}\n\n{principle.choice}")]


def mean_doubt(labels: Sequence[float]) -> float | None:
    """Return the mean probability that pairs with these labels are reversed; None without labels."""
    if not labels:
        return None
    return sum(min(label, 1 - label) for label in labels) / len(labels)


async def _replies(prompt: Prompt, by: Judges) -> tuple[str, str]:
    written = list(prompt.replies)
    for number in range(len(written), 2):
        text = await by.replier.write(
            prompt.turns,
            seed=2 * by.seed + number,
            max_tokens=by.settings.reply_tokens,
            temperature=by.settings.reply_temperature,
        )
        written.append(text.strip())
    return written[0], written[1]


async def _shown(prompt: Prompt, replies: Sequence[str], principle: Principle, by: Judges) -> Shown:
    settings = by.settings
    system, question = choice_turns(by.constitution, prompt, replies, principle, settings)
    if not settings.chain_of_thought:
        asked = [system, Turn("user", f"{question.content}\n{_ASK}")]
        return Shown(p_first_shown=(await by.chooser.choose(asked, OPTIONS, seed=by.seed))[0])
    asked = [system, Turn("user", f"{question.content}\n{_REASON}")]
    thought = await by.thinker.write(
        asked, seed=by.seed, max_tokens=settings.thought_tokens, temperature=settings.thought_temperature
    )
    thought = quoted(thought.strip(), settings.most_characters)
    asked += [Turn("assistant", thought), Turn("user", _DECIDE)]
    return Shown(p_first_shown=(await by.chooser.choose(asked, OPTIONS, seed=by.seed))[0], thought=thought)


def _fault_of(replies: Sequence[str], settings: FeedbackSettings) -> str | None:
    """Return why two replies cannot be compared; None if they can."""
    if replies[0] == replies[1]:
        return "the same reply twice"
    for reply in replies:
        if not any(character.isalnum() for character in reply):
            return "an empty reply"
        if has_marks(reply):
            return "a reply spells a control token"
        if len(reply) > settings.most_characters:
            return "a reply is too long"
    return None
