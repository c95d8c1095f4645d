"""Supervised stage of Constitutional AI: reply, then up to four rounds of critique and revision.

Source: Bai et al., 2212.08073, section 3.

The replier answers a prompt. In each round a principle is drawn, and the model criticises its reply under the
principle and rewrites it. The last revision becomes the fine-tuning target for the plain prompt. Prompts that
ask for help keep their first reply, as in the paper: without them a model learns to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

from modelstack.data.examples import Example
from modelstack.preferences.constitution.asking import Turn, Unanswered, Writer
from modelstack.preferences.constitution.prompts import Prompt
from modelstack.preferences.constitution.quoting import quoted
from modelstack.preferences.constitution.schema import Constitution, Principle, WorkedExample, drawn
from modelstack.tokenizer.template_marks import has_marks

SOURCE = "constitution"
"""Source recorded in the examples and pairs."""
MOST_ROUNDS = 4
"""Maximum number of rounds, from the paper; further rounds change little."""
_LABEL = re.compile(r"^\s*(?:\**)(?:here is |here's )?(?:the |my )?(?:revis(?:ed|ion)|better|improved|new)"
                    r"(?: (?:reply|response|answer|version))?(?:\**):(?:\**)\s*", re.IGNORECASE)  # fmt: skip
"""Pattern of the label that models tend to write above a revision."""
_ECHO_CHARACTERS = 60
"""Number of leading characters of a request that count as an echo if repeated."""


class RevisionSettings(BaseModel, frozen=True, extra="forbid"):
    """Settings of the supervised stage."""

    rounds: int = Field(default=MOST_ROUNDS, ge=1, le=MOST_ROUNDS)
    """Rounds of critique and revision of a reply."""
    few_shot: bool = True
    """Whether the worked examples of the constitution precede each critique."""
    reply_tokens: int = Field(default=256, ge=1)
    """Maximum number of tokens of a reply or a revision."""
    critique_tokens: int = Field(default=160, ge=1)
    """Maximum number of tokens of a critique."""
    reply_temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of first replies."""
    critic_temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of critiques and revisions."""
    most_characters: int = Field(default=6000, ge=200)
    """Maximum number of characters of a text shown to a critic or judge; the rest is cut off. A longer revision
    is dropped."""


class Round(BaseModel, frozen=True):
    """Critique with its revision."""

    principle: str
    critique: str
    revision: str


class Revised(BaseModel, frozen=True):
    """Record of the stage for one prompt."""

    prompt: Prompt
    reply: str
    rounds: tuple[Round, ...] = ()
    target: str | None = None
    """Fine-tuning target; None: no example."""
    left_out: str | None = None
    """Reason why there is no target; None if there is one."""

    @property
    def example(self) -> Example | None:
        """Fine-tuning example; None without a target."""
        if self.target is None:
            return None
        return Example(
            id=self.prompt.id,
            source=SOURCE,
            license=self.prompt.license,
            kind="answer",
            messages=self.prompt.messages,
            reply=self.target,
        )


@dataclass(frozen=True, slots=True)
class Reviser:
    """Models and settings of the supervised stage."""

    constitution: Constitution
    settings: RevisionSettings
    seed: int
    replier: Writer
    """Model to be improved."""
    critic: Writer
    """Model that criticises and revises; the same as the replier in the paper."""


async def revise(prompt: Prompt, by: Reviser) -> Revised:
    """Run the supervised stage on a prompt.

    Args:
        prompt: Prompt. If it has replies of its own, the first is criticised and the replier is not asked.
        by: Models and settings.
    """
    settings, rounds = by.settings, list[Round]()
    reply = ""
    try:
        reply = target = await first_reply(prompt, by)
        fault = fault_of(reply, settings) if prompt.keep else None
        for number in range(0 if prompt.keep else settings.rounds):
            principle = drawn(by.constitution.revising, by.seed, prompt.id, "critique", number)
            rounds.append(await _round(prompt, target, principle, number, by))
            target = rounds[-1].revision
            fault = fault_of(target, settings, principle, rounds[-1].critique)
            if fault is not None:
                break
    except Unanswered as error:
        target, fault = "", f"unanswered: {error}"
    return Revised(
        prompt=prompt,
        reply=reply,
        rounds=tuple(rounds),
        target=target if fault is None else None,
        left_out=fault,
    )


async def first_reply(prompt: Prompt, by: Reviser) -> str:
    """Return the reply to criticise: the prompt's own, or the replier's."""
    if prompt.replies:
        return prompt.replies[0]
    return (
        await by.replier.write(
            prompt.turns,
            seed=by.seed,
            max_tokens=by.settings.reply_tokens,
            temperature=by.settings.reply_temperature,
        )
    ).strip()


def critique_turns(
    constitution: Constitution, prompt: Prompt, reply: str, principle: Principle, settings: RevisionSettings
) -> list[Turn]:
    """Return the conversation that a critique continues, with each speaker's text in its own turn."""
    assert principle.critique is not None  # holds for all principles in `revising`
    told = "\n\n".join(text for text in (constitution.critic, constitution.classes_text) if text)
    turns = [Turn("system", told)]
    for example in constitution.examples if settings.few_shot else ():
        turns += _worked(constitution, example)
    for message in prompt.turns:
        # A system message of the conversation would be an instruction to the critic.
        role = "user" if message.role == "system" else message.role
        turns.append(Turn(role, quoted(message.content, settings.most_characters)))
    return [*turns, Turn("assistant", quoted(reply, settings.most_characters)), Turn("user", principle.critique)]


def fault_of(
    text: str, settings: RevisionSettings, principle: Principle | None = None, critique: str | None = None
) -> str | None:
    """Return why a text cannot be a fine-tuning target; None if it can.

    Args:
        text: Revision, or first reply that is kept.
        settings: Settings with the maximum length.
        principle: Principle with requests that the text must not repeat.
        critique: Critique that the text must not equal.
    """
    if not any(character.isalnum() for character in text):
        return "empty"
    if len(text) > settings.most_characters:
        return "too long"
    if has_marks(text):
        return "spells a control token"
    if text == critique:
        return "repeats the critique"
    asked = () if principle is None else (principle.critique, principle.revision)
    if any(words is not None and words[:_ECHO_CHARACTERS] in text for words in asked):
        return "repeats the request"
    return None


def tidied(text: str) -> str:
    """Return a revision without the label that models write above it."""
    return _LABEL.sub("", text.strip(), count=1).strip()


async def _round(prompt: Prompt, reply: str, principle: Principle, number: int, by: Reviser) -> Round:
    settings = by.settings
    assert principle.revision is not None
    turns = critique_turns(by.constitution, prompt, reply, principle, settings)
    seed = by.seed + number

    async def asked(turns: Sequence[Turn], max_tokens: int) -> str:
        return await by.critic.write(
            turns, seed=seed, max_tokens=max_tokens, temperature=settings.critic_temperature
        )

    critique = (await asked(turns, settings.critique_tokens)).strip()
    shown = quoted(critique, settings.most_characters)
    turns += [Turn("assistant", shown), Turn("user", principle.revision)]
    revision = tidied(await asked(turns, settings.reply_tokens))
    return Round(principle=principle.id, critique=critique, revision=revision)


def _worked(constitution: Constitution, example: WorkedExample) -> list[Turn]:
    principle = next(each for each in constitution.revising if each.id == example.principle)
    assert principle.critique is not None
    assert principle.revision is not None
    return [
        Turn("user", example.prompt),
        Turn("assistant", example.reply),
        Turn("user", principle.critique),
        Turn("assistant", example.critique),
        Turn("user", principle.revision),
        Turn("assistant", example.revision),
    ]
