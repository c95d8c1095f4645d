"""The twelve steps from a budget to a served model, with their commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelstack.commands import (
    align,
    architecture,
    attacking,
    autoencoders,
    data,
    decide,
    inference,
    pipeline,
    preferences,
    reasoning,
    recipes,
    releasing,
    serving,
    sft,
    stability,
    stages,
    tokenizer,
    toolcalls,
    train,
)


@dataclass(frozen=True, slots=True)
class Step:
    """Step with its commands."""

    name: str
    """Name of the step and of its folder in the package."""
    about: str
    commands: Mapping[str, Callable[..., None]] = field(default_factory=dict[str, Callable[..., None]])
    """Functions by the words of their command."""


STEPS = (
    Step("decide", "model, tokens and cost for a budget", {"plan": decide.plan, "fit-law": decide.fit_law}),
    Step(
        "data",
        "documents to train on, and examples of tool calls",
        {
            "data run": data.run,
            "data mix": data.mix,
            "data synthesise": data.synthesise,
            "data quality": data.quality,
            "data tools": data.tools,
        },
    ),
    Step(
        "tokenizer",
        "byte-pair encoding, and its report",
        {"tokenizer train": tokenizer.train, "tokenizer report": tokenizer.report},
    ),
    Step(
        "architecture",
        "sizes, choices, and files of other programs",
        {
            "count": architecture.count,
            "ablate": architecture.ablate,
            "export gguf": architecture.export_gguf,
            "import gguf": architecture.import_gguf,
        },
    ),
    Step("train", "a model from scratch", {"train": train.train, "train sweep": train.sweep}),
    Step("stability", "interruptions and faults of a run", {"goodput": stability.goodput}),
    Step(
        "sft",
        "supervised fine-tuning; stages",
        {"sft": sft.sft, "stage lineage": stages.lineage, "stage merge": stages.merge},
    ),
    Step("preferences", "pairs, and reward models", {"prefer": preferences.prefer, "reward": preferences.reward}),
    Step(
        "reasoning",
        "rewards that are verified, distillation, merging",
        {
            "tasks": reasoning.tasks,
            "reinforce": reasoning.reinforce,
            "ppo": reasoning.ppo,
            "sample": reasoning.sample,
            "distil": reasoning.distil,
            "merge": reasoning.merge,
        },
    ),
    Step(
        "inference",
        "replies, a server, quantisation; agentkit chat runs GGUF files",
        {
            "infer": inference.infer,
            "serve": serving.serve,
            "quantise": inference.quantise,
            "drafter": inference.drafter,
        },
    ),
    Step("toolcalls", "grammar and prior of tool calls", {"fit-prior": toolcalls.fit_prior}),
    Step(
        "align",
        "guards of requests and replies, refusals",
        {
            "guard": align.guard,
            "judge": align.judge,
            "direction": align.direction,
            "attack": attacking.attack,
            "suffix": attacking.suffix,
            "sae": autoencoders.sae,
            "sae features": autoencoders.features,
            "sae steer": autoencoders.steer,
            "release": releasing.release,
            "release key": releasing.key,
            "release tamper": releasing.tamper,
            "release memorisation": releasing.memorisation,
            "release contamination": releasing.contamination,
        },
    ),
)
RECIPES = {"pipeline": pipeline.pipeline, "recipes": recipes.recipes, "recipes show": recipes.show}
"""Commands that belong to no step, or to all of them."""
