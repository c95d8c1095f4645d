"""The loop: replies of the base, critique and revision, fine-tuning, AI feedback, preference training.

Each part stores its state in its folder and resumes from it: the two stages use journals, the trainings use
checkpoints, and the measured replies have their own journal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from pydantic import BaseModel, Field
from rich.console import Console

from agentkit.errors import UserError
from evals.post_training.constitution.requests import Request, measured_requests, training_requests
from evals.post_training.constitution.scripted import ScriptedCritic, ScriptedJudge
from modelstack.data.examples import Message
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.posttrain.stages.stage import ADAPTER_GGUF
from modelstack.preferences.constitution.asking import Turn, Unanswered
from modelstack.preferences.constitution.critique import Revised, RevisionSettings
from modelstack.preferences.constitution.engine_asking import EngineModel
from modelstack.preferences.constitution.feedback import Comparison, FeedbackSettings, mean_doubt
from modelstack.preferences.constitution.journal import Journal, KeptWriter
from modelstack.preferences.constitution.prompts import Prompt
from modelstack.preferences.constitution.run import (
    EXAMPLES,
    PAIRS,
    ConstitutionRecipe,
    Models,
    in_turns,
    run_comparisons,
    run_revisions,
)
from modelstack.preferences.constitution.schema import Constitution, read_constitution
from modelstack.preferences.recipe import PreferenceRecipe
from modelstack.preferences.run import prefer
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune

LICENSE = "own data"
_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s|$)")


class LoopRecipe(BaseModel, frozen=True, extra="forbid"):
    """Sizes and hyperparameters of the loop."""

    seed: int = Field(default=0, ge=0)
    revised_per_side: int = Field(default=60, ge=4)
    """Number of requests per side (harmful, sharp, everyday) in the supervised stage."""
    compared_per_side: int = Field(default=25, ge=4)
    """Number of other requests per side, whose replies are compared."""
    measured_per_side: int = Field(default=60, ge=4)
    reply_tokens: int = Field(default=48, ge=8)
    sft_epochs: float = Field(default=3.0, gt=0)
    sft_lr: float = Field(default=5e-4, gt=0)
    preference_epochs: float = Field(default=2.0, gt=0)
    preference_lr: float = Field(default=1e-4, gt=0)
    threads: int = Field(default=1, ge=1)


@dataclass(frozen=True, slots=True)
class Replied:
    """A measured request and a model's reply."""

    request: Request
    reply: str


@dataclass(frozen=True, slots=True)
class Looped:
    """All results of the loop."""

    revised: list[Revised]
    compared: list[Comparison]
    replies: dict[str, list[Replied]]
    """Replies to the measured requests, by stage."""


class StoppedError(Exception):
    """Raised when a training was asked to stop; the same command resumes it."""


def run_loop(recipe: LoopRecipe, weights: Path, out: Path, console: Console) -> Looped:
    """Run or resume the loop.

    Args:
        recipe: Sizes and hyperparameters.
        weights: GGUF file of the base.
        out: Folder of all files.
        console: Console for progress.

    Raises:
        UserError: the folder holds another loop, or the preference stage yielded too few pairs.
        StoppedError: a training was asked to stop.
    """
    constitution = read_constitution()
    n_training = recipe.revised_per_side + recipe.compared_per_side
    requests = training_requests(n_training, recipe.seed)
    for_revision, for_comparison = split(requests, recipe.revised_per_side)
    measured = measured_requests(recipe.measured_per_side, recipe.seed)
    replies: dict[str, list[Replied]] = {}
    with _model(weights, None, recipe) as base:
        console.print("critique and revision")
        revised = anyio.run(_revised, constitution, for_revision, base, recipe, out / "revise")
        console.print("replies of the base")
        replies["base"] = anyio.run(_replies, measured, base, recipe, out)
    sft, dpo = out / "sft", out / "dpo"
    _trained(fine_tune(_sft_recipe(recipe, weights, out / "revise" / EXAMPLES), sft, console))
    with _model(weights, sft / ADAPTER_GGUF, recipe) as tuned:
        console.print("AI feedback")
        compared = anyio.run(_compared, constitution, for_comparison, tuned, recipe, out / "compare")
        console.print("replies after fine-tuning")
        replies["sft"] = anyio.run(_replies, measured, tuned, recipe, out)
    _trained(prefer(_preference_recipe(recipe, weights, sft, out / "compare" / PAIRS, compared), dpo, console))
    with _model(weights, dpo / ADAPTER_GGUF, recipe) as preferred:
        console.print("replies after preference training")
        replies["dpo"] = anyio.run(_replies, measured, preferred, recipe, out)
    return Looped(revised, compared, replies)


def split(requests: Sequence[Request], n_per_side: int) -> tuple[list[Request], list[Request]]:
    """Return the first `n_per_side` requests of each side, and the rest."""
    first: list[Request] = []
    rest: list[Request] = []
    for request in requests:
        n_there = sum(each.side == request.side for each in first)
        (first if n_there < n_per_side else rest).append(request)
    return first, rest


def whole_sentences(text: str) -> str:
    """Cut a reply after its last full sentence, if it has one.

    Training on truncated sentences would teach the model to break off.
    """
    ends = list(_SENTENCE_END.finditer(text))
    return text[: ends[-1].end()].strip() if ends else text.strip()


class _InSentences:
    """A writer whose replies end with a full sentence."""

    def __init__(self, writer: EngineModel) -> None:
        self._writer = writer

    @property
    def name(self) -> str:
        return f"{self._writer.name}, whole sentences"

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        return whole_sentences(
            await self._writer.write(turns, seed=seed, max_tokens=max_tokens, temperature=temperature)
        )


async def _revised(
    constitution: Constitution, requests: Sequence[Request], base: EngineModel, recipe: LoopRecipe, path: Path
) -> list[Revised]:
    settings = RevisionSettings(
        rounds=1, few_shot=False, reply_tokens=recipe.reply_tokens, reply_temperature=0.7
    )  # a rule finds no new fault in a second round
    how = ConstitutionRecipe(seed=recipe.seed, revision=settings, concurrency=1)
    who = Models(_InSentences(base), ScriptedCritic())
    return await run_revisions(constitution, [_prompt(each) for each in requests], how, who, path)


async def _compared(
    constitution: Constitution, requests: Sequence[Request], tuned: EngineModel, recipe: LoopRecipe, path: Path
) -> list[Comparison]:
    settings = FeedbackSettings(reply_tokens=recipe.reply_tokens, reply_temperature=0.8)
    how = ConstitutionRecipe(seed=recipe.seed, feedback=settings, concurrency=1)
    who = Models(_InSentences(tuned), ScriptedCritic(), ScriptedJudge())
    return await run_comparisons(constitution, [_prompt(each) for each in requests], how, who, path)


async def _replies(
    requests: Sequence[Request], model: EngineModel, recipe: LoopRecipe, out: Path
) -> list[Replied]:
    """Return greedy replies to the measured requests."""
    writer = KeptWriter(model, Journal(out / "replies.jsonl"))

    async def reply(request: Request) -> Replied:
        turns = (Turn("user", request.text),)
        try:
            text = await writer.write(turns, seed=0, max_tokens=recipe.reply_tokens, temperature=0.0)
        except Unanswered as error:
            raise UserError(f"request {request.id} has no reply: {error}") from error
        return Replied(request, text.strip())

    return await in_turns(requests, reply, 1)


def _prompt(request: Request) -> Prompt:
    return Prompt(id=request.id, messages=(Message(role="user", content=request.text),), license=LICENSE)


@contextmanager
def _model(weights: Path, adapter: Path | None, recipe: LoopRecipe) -> Iterator[EngineModel]:
    threads = recipe.threads
    with LlamaCppEngine(weights, lora_path=adapter, n_threads=threads, n_threads_prefill=threads) as engine:
        yield EngineModel(engine)


def _trained(stage: object) -> None:
    if stage is None:
        raise StoppedError("stopped; the same command resumes")


def _sft_recipe(recipe: LoopRecipe, weights: Path, examples: Path) -> SftRecipe:
    return SftRecipe.model_validate(
        {
            "name": "constitution-sft",
            "base": str(weights),
            "seed": recipe.seed,
            "threads": recipe.threads,
            "epochs": recipe.sft_epochs,
            "rows": 4,
            "micro_batches": 1,
            "data": {"training": [str(examples)], "row_tokens": 256},
            "optimizer": {"lr": recipe.sft_lr},
            "checkpoints": {"every": 5, "keep": 2},
        }
    )


def _preference_recipe(
    recipe: LoopRecipe, weights: Path, sft: Path, pairs: Path, compared: Sequence[Comparison]
) -> PreferenceRecipe:
    labels = [each.label for each in compared if each.preference is not None and each.label is not None]
    doubt = mean_doubt(labels)
    if doubt is None:
        raise UserError(f"{pairs} has no pair: all replies were alike. Give a larger compared_per_side")
    return PreferenceRecipe.model_validate(
        {
            "name": "constitution-dpo",
            "base": str(sft),
            "weights": str(weights),
            "seed": recipe.seed,
            "threads": recipe.threads,
            "epochs": recipe.preference_epochs,
            "rows": 8,
            "micro_batches": 2,
            "data": {"training": [str(pairs)], "row_tokens": 256},
            # Label smoothing is the mean doubt of the soft labels, because the loss on pairs accepts only one
            # value.
            "method": {
                "name": "direct",
                "loss": {"losses": [{"name": "cdpo"}], "label_smoothing": round(doubt, 4)},
            },
            "optimizer": {"lr": recipe.preference_lr},
            "checkpoints": {"every": 5, "keep": 2},
        }
    )
