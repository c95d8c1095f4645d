"""AI feedback: which of two replies is better, as a model judges under a principle (2212.08073, section 4).

The label is the judge's normalised probability of one reply, soft. Judges prefer a place, the first one mostly, so
each pair is shown in both orders and the two probabilities are averaged (Lee et al., RLAIF, 2309.00267); what they
differ by is reported as position bias. A judge that first reasons is sure of everything it then says: those labels
are clamped to 0.4 and 0.6, as the paper did.

Losses on pairs know a choice and no probability of it, so a label becomes a pair where it is at least `min_margin`
from one half; what doubt is left on the average is told, to be given as `label_smoothing` of the loss `cdpo`.
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
from modelstack.preferences.constitution.quoting import fenced, has_marks, quoted
from modelstack.preferences.constitution.schema import Constitution, Principle, drawn
from modelstack.preferences.examples import Preference, Reply

CLAMP = (0.4, 0.6)
"""Of labels behind a chain of thought, the paper's."""
_REASON = (
    "Think it through first: say in a few sentences what speaks for each reply under that question. Do not "
    "decide yet."
)
_DECIDE = f"Now decide. Answer with {OPTIONS[0]} or {OPTIONS[1]} alone."
_ASK = f"Answer with {OPTIONS[0]} or {OPTIONS[1]} alone."


class FeedbackSettings(BaseModel, frozen=True, extra="forbid"):
    """How the preference stage asks, and what becomes a pair."""

    reply_tokens: int = Field(default=256, ge=1)
    reply_temperature: float = Field(default=1.0, ge=0)
    """Of the two replies that are compared; at 0 they would be the same."""
    chain_of_thought: bool = False
    """Whether the judge reasons first."""
    thought_tokens: int = Field(default=200, ge=1)
    thought_temperature: float = Field(default=0.7, ge=0)
    clamp: tuple[float, float] = CLAMP
    """Where labels end that were reasoned for."""
    min_margin: float = Field(default=0.1, ge=0, lt=0.5)
    """How far from one half a label must be to become a pair."""
    most_characters: int = Field(default=6000, ge=200)
    """Of one text as the judge sees it; more is cut. A reply that is longer becomes no pair."""

    @model_validator(mode="after")
    def _can_give_pairs(self) -> Self:
        low, high = self.clamp
        if not 0 <= low < 0.5 < high <= 1:
            raise ValueError(f"clamp is {list(self.clamp)}: 0 <= low < 0.5 < high <= 1")
        if self.chain_of_thought and self.min_margin > min(0.5 - low, high - 0.5) + 1e-9:
            raise ValueError(
                f"min_margin = {self.min_margin} is out of reach: with chain_of_thought labels end at "
                f"{low} and {high}; lower min_margin or widen clamp"
            )
        return self


class Shown(BaseModel, frozen=True):
    """One order of the pair, and what the judge said."""

    p_first_shown: float
    """Probability of the reply that stood first."""
    thought: str | None = None


class Comparison(BaseModel, frozen=True):
    """All that was said about two replies."""

    prompt: Prompt
    replies: tuple[str, str]
    principle: str
    shown: tuple[Shown, ...] = ()
    """As the replies stand, then the other way round."""
    label: float | None = None
    """P(the first of `replies` is better), both orders averaged, clamped where it was reasoned for."""
    left_out: str | None = None
    """Why there is no label, or no pair of it."""

    @property
    def position_bias(self) -> float | None:
        """By how much standing first raises a reply's probability; 0: not at all, 0.5: it decides alone."""
        if len(self.shown) != 2:
            return None
        return sum(each.p_first_shown for each in self.shown) / 2 - 0.5

    @property
    def preference(self) -> Preference | None:
        """The pair, where there is one."""
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
    """Who takes part in the preference stage."""

    constitution: Constitution
    settings: FeedbackSettings
    seed: int
    replier: Writer
    """Gives the replies, where a prompt brings none; the model that is trained."""
    chooser: Chooser
    thinker: Writer
    """Reasons before the choice; in most cases the same model as the chooser."""


async def compare(prompt: Prompt, by: Judges) -> Comparison:
    """Put a prompt through the stage.

    Args:
        prompt: With two replies of its own these are compared; with one it is compared with the replier's.
        by: Who takes part.
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
    """Return P(a reply is better) of both orders.

    Args:
        p_when_first: Its probability where it stood first.
        p_first_when_second: The other one's probability where that stood first.
    """
    return (p_when_first + (1 - p_first_when_second)) / 2


def normalised(log_probabilities: Sequence[float]) -> tuple[float, ...]:
    """Return probabilities of options among themselves.

    Args:
        log_probabilities: Natural; of each option as what the model says next.
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
    """Return the question which of two replies is better, without the words that ask for an answer."""
    assert principle.choice is not None  # of `choosing`
    told = "\n\n".join(text for text in (constitution.judge, constitution.classes_text) if text)
    texts = [(message.role, quoted(message.content, settings.most_characters)) for message in prompt.messages]
    texts += [
        (f"reply {option}", quoted(reply, settings.most_characters))
        for option, reply in zip(OPTIONS, replies, strict=True)
    ]
    return [Turn("system", told), Turn("user", f"{fenced(texts)}\n\n{principle.choice}")]


def mean_doubt(labels: Sequence[float]) -> float | None:
    """Return the mean probability that pairs of these labels are the wrong way round; None without labels."""
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
    """Return why two replies are nothing to compare, None where they are."""
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
