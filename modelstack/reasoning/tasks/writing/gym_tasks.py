"""Tasks of reasoning-gym for small models: short instructions, and examples as earlier turns."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from modelstack.data.examples import Message
from modelstack.errors import UserError
from modelstack.reasoning.tasks.task import TaskLine
from modelstack.reasoning.tasks.writing.written import LICENSE, Side, Source
from modelstack.reasoning.verifiers.answer_forms import AnswerForm
from modelstack.reasoning.verifiers.gym import GymTask, dataset_of

INSTRUCTIONS: Mapping[AnswerForm, str] = {
    "marked": "Reply with <answer>your answer</answer>.",
    "bare": "Reply with the answer only.",
    "equation": "Write the equation with its result.",
}
_ENTRIES = 100_000
"""Size of a generator's data set; entries are generated on access."""
_SHOTS_SEED = 1_000_003
"""Seed of the entries shown as examples. It is independent of the file's seed, so that prompts keep their
length.
"""
_IMPOSSIBLE = {
    "task": "chain_sum",
    "seed": 0,
    "size": 1,
    "index": 0,
    "config": {"min_terms": 6, "max_terms": 6, "min_digits": 9, "max_digits": 9},
}
"""Sum of six numbers with nine digits: not the correct answer to any prompt of a file."""


@dataclass(frozen=True)
class GymSettings:
    """Generator, its difficulty, and the form of the prompt."""

    task: str = "chain_sum"
    level: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    form: AnswerForm = "marked"
    shots: int = 1
    """Number of examples before the question."""
    system: str | None = None
    """System message; None: the instruction of the form."""


def gym_source(settings: GymSettings, seed: int) -> Source:
    """Return the source of a generator's tasks.

    Raises:
        UserError: reasoning-gym is not installed, or rejects the name or the settings.
    """
    maker = _Maker(settings, seed)
    _ = maker.shown  # raises for wrong settings now rather than at the first task
    return Source("gym", maker.make, _as_canary)


@dataclass(frozen=True)
class _Maker:
    settings: GymSettings
    seed: int

    @cached_property
    def shown(self) -> tuple[Message, ...]:
        """Turns before the question."""
        settings = self.settings
        turns = [Message(role="system", content=settings.system or INSTRUCTIONS[settings.form])]
        examples = dataset_of(
            GymTask(settings.task, _SHOTS_SEED, max(1, settings.shots), settings.level, settings.config)
        )
        for index in range(settings.shots):
            asked = self._asked(examples[index]["question"])
            said = _written(settings.form, asked, str(examples[index]["answer"]))
            turns += [Message(role="user", content=asked), Message(role="assistant", content=said)]
        return tuple(turns)

    @cached_property
    def entries(self) -> Any:
        """Entries of the generator."""
        settings = self.settings
        return dataset_of(GymTask(settings.task, self.seed, _ENTRIES, settings.level, settings.config))

    def make(self, chance: random.Random, side: Side, number: int) -> TaskLine | None:
        """Return the task of the entry with a number."""
        if number >= _ENTRIES:
            return None
        asked = self._asked(str(self.entries[number]["question"]))
        if any(asked == turn.content for turn in self.shown):
            return None
        settings = self.settings
        gold: dict[str, Any] = {"task": settings.task, "seed": self.seed, "size": _ENTRIES, "index": number}
        gold |= {"level": settings.level} if settings.level is not None else {}
        gold |= {"config": dict(settings.config)} if settings.config else {}
        return TaskLine(
            id="-",
            messages=(*self.shown, Message(role="user", content=asked)),
            gold=gold | {"form": settings.form},
            license="Apache-2.0",
            source=f"reasoning-gym {settings.task}",
        )

    def _asked(self, question: str) -> str:
        if self.settings.form != "equation":
            return question.strip()
        asked = question.rpartition(":")[2].strip()
        if not asked.endswith("="):
            raise UserError(
                f"form = 'equation' is for questions that end with '=', and {self.settings.task} asks "
                f"{question[-60:]!r}: take form = 'marked' or 'bare'"
            )
        return asked


def _written(form: AnswerForm, asked: str, answer: str) -> str:
    match form:
        case "marked":
            return f"<answer>{answer}</answer>"
        case "bare":
            return answer
        case "equation":
            return f"{asked} {answer}"


def _as_canary(task: TaskLine) -> TaskLine:
    return task.model_copy(update={"gold": _IMPOSSIBLE | {"form": task.gold["form"]}, "license": LICENSE})
