"""Steps of a pipeline in order: the twelve, then the release and an agent that uses it.

A step names what it reads: sections of the recipe and parts of earlier steps' output. Its key is a hash of these.
A changed recipe therefore runs the steps again that read the change, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

StepName = Literal[
    "decide",
    "data",
    "tokenizer",
    "architecture",
    "train",
    "stability",
    "sft",
    "preferences",
    "reasoning",
    "inference",
    "toolcalls",
    "align",
    "release",
    "agent",
]
MODEL = "model"
"""Need of a step that reads the newest model before it, whichever step made that."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the pipeline."""

    number: int
    name: StepName
    about: str
    """Description in a few words."""
    reads: tuple[str, ...]
    """Sections of the recipe."""
    needs: tuple[str, ...] = ()
    """Parts of earlier steps' output, STEP/FOLDER, or `MODEL`."""
    wants: tuple[str, ...] = ()
    """Parts that it uses unless their step is skipped."""
    makes_model: bool = False
    """Whether later steps continue with its model, which is evaluated."""
    version: int = 1
    """Raised when the same inputs give other outputs, so that older outputs are not taken for current ones."""

    @property
    def folder(self) -> str:
        """Name of its folder in the pipeline's folder."""
        return f"{self.number:02}-{self.name}"

    def work(self) -> Callable[[Any], Any]:
        """Return the function of the step, from a `StepJob` to a `StepResult`; its module is imported now."""
        return import_module(f"modelstack.pipeline.work.{self.name}").work


_ALWAYS = ("seed", "threads")
STEPS: tuple[Step, ...] = (
    Step(1, "decide", "a plan of hours, memory and cost", ("decide", "train", "tokenizer", "base")),
    Step(2, "data", "raw pages, code, dialogues, synthetic documents, examples", ("data", "seed"), version=2),
    Step(
        3,
        "tokenizer",
        "byte-pair encoding, and its report",
        ("threads", "tokenizer"),
        ("data/text", "data/raw", "data/kept", "data/evaluation"),
    ),
    Step(4, "architecture", "an ablation chooses a shape", ("architecture",), ("data/text",)),
    Step(
        5,
        "train",
        "a model from scratch, under the guard",
        (*_ALWAYS, "train", "fault"),
        ("data/text", "tokenizer/tokenizer"),
        ("architecture/choice",),
        makes_model=True,
    ),
    Step(
        6,
        "stability",
        "drills with faults, and the account of the time",
        (*_ALWAYS, "train", "stability"),
        ("data/text", "tokenizer/tokenizer", "train/model"),
        ("architecture/choice",),
    ),
    Step(7, "sft", "examples of good replies", (*_ALWAYS, "sft"), (MODEL, "data/examples"), makes_model=True),
    Step(
        8,
        "preferences",
        "better and worse replies",
        (*_ALWAYS, "preferences"),
        (MODEL, "data/pairs"),
        makes_model=True,
    ),
    Step(
        9,
        "reasoning",
        "rewards that a program verifies",
        (*_ALWAYS, "reasoning"),
        (MODEL, "data/tasks"),
        makes_model=True,
    ),
    Step(
        10,
        "inference",
        "merged, quantised, compared with the original",
        (*_ALWAYS, "inference"),
        (MODEL, "data/text", "data/evaluation"),
        makes_model=True,
    ),
    Step(
        11,
        "toolcalls",
        "convention, grammar, and calls on held-back tasks",
        (*_ALWAYS, "toolcalls"),
        ("inference/served", "data/examples"),
    ),
    Step(
        12,
        "align",
        "guard, probe, direction of refusal, attacks",
        (*_ALWAYS, "align"),
        ("inference/served", "data/twins"),
        version=2,
    ),
    Step(
        13,
        "release",
        "a signed folder, or the names of what is missing",
        (*_ALWAYS, "release"),
        ("inference/served", "align/results", "data/examples", "data/evaluation"),
        ("toolcalls/results",),
    ),
    Step(14, "agent", "tasks answered by an agent with the released model", ("agent",), ("inference/served",)),
)
"""All steps in order."""
BY_NAME: dict[str, Step] = {step.name: step for step in STEPS}
BEFORE_A_BASE: frozenset[StepName] = frozenset({"tokenizer", "architecture", "train", "stability"})
"""Steps that a given base replaces."""
