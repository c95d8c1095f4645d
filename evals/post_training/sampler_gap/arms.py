"""The same reinforcement learning with rollouts from three samplers, and the final reward of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, Field
from rich.console import Console

from evals.post_training.sampler_gap.gap import Gap, measured_gap
from evals.post_training.sampler_gap.start import BASE, HELD_BACK, TRAINING, StartPlan, make_start
from evals.post_training.seeds import results_of_seeds
from modelstack.errors import UserError
from modelstack.files import json_lines, replacing
from modelstack.independent_runs import Place
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.stages.stage import MODEL
from modelstack.posttrain.values_hook import REWARDS_FILE
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.llama.policy import LlamaPolicy
from modelstack.reasoning.sampling.llama.served_policy import LlamaSampling
from modelstack.reasoning.sampling.sampled import Asked, Sampler, completion_of
from modelstack.reasoning.tasks.task import read_tasks
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.recipe_file import checked_recipe

NumberType = Literal["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
TORCH, CORRECTED, UNCORRECTED = "fp32 torch", "llama.cpp, corrected", "llama.cpp, uncorrected"
ARMS = (TORCH, CORRECTED, UNCORRECTED)
NUMBER_TYPES: tuple[NumberType, ...] = get_args(NumberType)
"""Number types from fine to coarse."""
START = "start"
N_SAMPLES = 4
"""Number of replies per held-back task."""


class GapPlan(BaseModel, frozen=True, extra="forbid"):
    """Plan of the experiment."""

    start: StartPlan = StartPlan()
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = Field(default=40, ge=1)
    rows: int = Field(default=8, ge=1)
    """Number of prompts per step."""
    group: int = Field(default=8, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    type_name: NumberType = "q4_0"
    """Number type of llama.cpp's weights during sampling."""
    correction: str = "token_truncate"
    high: float = 2.0

    @property
    def max_tokens(self) -> int:
        """Maximum tokens of a reply: the number, its end, and one extra token."""
        return self.start.n_digits + 2


class Outcome(BaseModel, frozen=True):
    """Result of one training, or of the start."""

    arm: str
    seed: int
    rewards: tuple[float, ...]
    """Reward of each held-back task, averaged over replies sampled from the fp32 weights."""
    served: tuple[float, ...]
    """Reward of each held-back task, averaged over replies sampled by llama.cpp in the training's number type."""
    gaps: dict[str, Gap]
    """Gap between the final weights and each number type."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Plan and folder of the experiment."""

    plan: GapPlan
    folder: Path
    console: Console

    def run_folder(self, arm: str, seed: int) -> Path:
        """Return the folder of a training."""
        return self.folder / "runs" / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"

    def outcome_file(self, arm: str, seed: int) -> Path:
        """Return the file of a training's outcome."""
        folder = self.run_folder(arm, seed)
        return self.folder / "outcomes" / f"{folder.name}.json"  # a name may contain dots

    def curve(self, arm: str, seed: int, key: str) -> list[float]:
        """Return a quantity over the steps of a training."""
        file = self.run_folder(arm, seed) / REWARDS_FILE
        return [json.loads(line)[key] for line in json_lines(file)]


def run(experiment: Experiment, on: Place = "local") -> list[Outcome]:
    """Run or resume all trainings; the start comes first.

    Args:
        experiment: Plan and place; on Ray, all machines see its folder.
        on: Where the trainings run.

    Raises:
        UserError: the folder holds another experiment, or a training was asked to stop.
    """
    plan, folder, console = experiment.plan, experiment.folder.resolve(), experiment.console
    folder.mkdir(parents=True, exist_ok=True)
    _claim(plan, folder / "plan.json")
    torch.set_num_threads(1)
    make_start(plan.start, folder, console.print)
    start = _measured(experiment, START, 0, folder / BASE, experiment.outcome_file(START, 0))
    pairs = [(arm, seed) for seed in plan.seeds for arm in ARMS]
    return [start, *results_of_seeds(partial(_trained, plan, folder), pairs, console, on=on)]


def _trained(plan: GapPlan, folder: Path, pair: tuple[str, int], console: Console) -> Outcome:
    arm, seed = pair
    torch.set_num_threads(1)
    experiment = Experiment(plan, folder, console)
    place = experiment.run_folder(arm, seed)
    if reinforce(_recipe(experiment, arm, seed), place, console) is None:
        raise UserError("stopped; the same command resumes")
    return _measured(experiment, arm, seed, place / MODEL, experiment.outcome_file(arm, seed))


def _recipe(experiment: Experiment, arm: str, seed: int) -> PolicyRecipe:
    plan, folder = experiment.plan, experiment.folder
    values: dict[str, Any] = {
        "name": "sampler-gap",
        "base": str(folder / BASE),
        "seed": seed,
        "data": {"training": [str(folder / TRAINING)], "verifier": "math"},
        "train": "full",
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "steps": plan.steps,
        "rows": plan.rows,
        "micro_batches": plan.rows,
        "sampling": {"group": plan.group, "max_tokens": plan.max_tokens},
        "optimizer": {"lr": plan.lr},
        "schedule": {"kind": "constant"},
        "watch_kl": False,
        # On policy, the loss is 0 except for rounding, so the guard would treat any other value as a spike.
        "guard": {"warmup": plan.steps + 4},
    }
    if arm != TORCH:
        values["llama"] = {"type_name": plan.type_name}
    if arm == CORRECTED:
        values["correction"] = {"name": plan.correction, "high": plan.high}
    return checked_recipe(PolicyRecipe, values)


def _measured(experiment: Experiment, arm: str, seed: int, model: Path, file: Path) -> Outcome:
    """Return the measurements of a model; they are computed once."""
    if file.exists():
        return Outcome.model_validate_json(file.read_bytes())
    file.parent.mkdir(exist_ok=True)
    base, plan = load_base(model), experiment.plan
    end_ids = frozenset(base.encoder.end_ids)
    with LlamaPolicy(base, LlamaSampling(type_name=plan.type_name, max_rows=64)) as quantised:
        served = _held_back_rewards(GroupSampler(quantised, end_ids, plan.max_tokens), base, experiment)
    own = GroupSampler(TorchPolicy(base.model), end_ids, plan.max_tokens)
    outcome = Outcome(
        arm=arm,
        seed=seed,
        rewards=tuple(_held_back_rewards(own, base, experiment)),
        served=tuple(served),
        gaps={
            name: measured_gap(base, asked_of(base, experiment)[:64], name, plan.group, plan.max_tokens)
            for name in NUMBER_TYPES
        },
    )
    with replacing(file) as temporary:
        temporary.write_text(outcome.model_dump_json() + "\n", encoding="utf-8")
    return outcome


def asked_of(base: Base, experiment: Experiment) -> list[Asked]:
    """Return the held-back tasks in the form that samplers accept."""
    tasks = read_tasks(experiment.folder / HELD_BACK)
    return [Asked(task, tuple(task.prompt_ids(base.encoder)), n) for n, task in enumerate(tasks)]


def _held_back_rewards(sampler: Sampler, base: Base, experiment: Experiment) -> Sequence[float]:
    verifier, encoder = verifier_of("math"), base.encoder
    asked = asked_of(base, experiment)
    means = []
    for each, replies in zip(asked, sampler.sample(asked, N_SAMPLES), strict=True):
        judged = [verifier.score(each.task.item, completion_of(reply, encoder)).value for reply in replies]
        values = [value for value in judged if value is not None]
        means.append(sum(values) / len(values))
    return means


def _claim(plan: GapPlan, file: Path) -> None:
    if file.exists():
        known = GapPlan.model_validate_json(file.read_bytes())
        if known.model_copy(update={"seeds": plan.seeds}) != plan:
            raise UserError(f"{file.parent} holds an experiment with another plan: give another --out")
    with replacing(file) as temporary:
        temporary.write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
