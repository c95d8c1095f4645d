"""Training of a reward model on pairs.

The stage always holds a checkpoint folder with a head (`value_model`). Adapters are merged, because no engine
serves a reward model as an adapter on its base.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from torch import nn

from modelstack.posttrain.driver import run_training
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.stages.record import Kind
from modelstack.posttrain.stages.stage import MODEL, Stage
from modelstack.posttrain.starting_point import load_start
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.preferences.data import read_sides
from modelstack.preferences.reward.loader import PairLoader
from modelstack.preferences.reward.passes import RewardPasses
from modelstack.preferences.reward.recipe import RewardRecipe
from modelstack.preferences.reward.scores import measured, normalise, score_pairs
from modelstack.preferences.reward.value_model import (
    HEAD_FILE,
    Normalisation,
    ValueModel,
    draw_head,
    load_head,
    save_value_model,
    value_groups,
)
from modelstack.train.optimizers.optimizer import GroupedOptimizer

RewardResolved = TuningResolved[RewardRecipe]


def train_reward_model(recipe: RewardRecipe, path: Path, console: Console) -> Stage | None:
    """Train a reward model; see `run_training`."""
    return run_training(RewardTraining, recipe, path, console)


class RewardTraining(Training[RewardResolved]):
    """Training of a reward model."""

    kind: ClassVar[Kind] = "preference"

    def __init__(self, job: Job[RewardResolved], told: Told) -> None:
        """Render the pairs and load the base; a base that is already a reward model keeps its head."""
        super().__init__(job, told)
        recipe = self.resolved.recipe
        told("reading preferences")
        sides = read_sides(recipe.data)
        told("loading the base")
        self.base = load_start(recipe, self.resolved.lora, job.start)
        self._value_model = ValueModel(self.base.model)
        self.model = self._value_model
        if job.start.weights.is_dir() and (job.start.weights / HEAD_FILE).is_file():
            load_head(self._value_model, job.start.weights)
        else:
            draw_head(self._value_model, recipe.seed)
        told("rendering preferences")
        self._units = sides.units(recipe.data, "pairs", self.base)
        self._held_back = sides.held_back(recipe.data, self.base, recipe.max_validation, recipe.seed)
        self._normalised: Normalisation | None = None
        self.data = sides.manifest(recipe.data, self._units)
        self.n_rows = len(self._units)

    def measure(self, told: Told) -> None:
        """Score the held-back pairs."""
        if self._held_back is not None:
            told("scoring held-back pairs")
            self.before = measured(score_pairs(self._value_model, self._held_back))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the head and of the adapters or all weights."""
        recipe, lora = self.resolved.recipe, self.resolved.lora
        return GroupedOptimizer(value_groups(self._value_model, lora, recipe.optimizer))

    def parts(self) -> tuple[PairLoader, RewardPasses]:
        """Return the loader of pairs and the passes of the loss."""
        recipe = self.resolved.recipe
        loader = PairLoader(self._units, self.row_order(), rows_per_batch=self.rows_per_batch)
        return loader, RewardPasses(self._value_model, recipe.loss)

    def write(self) -> list[str]:
        """Shift the rewards so that training's chosen replies have mean 0; write body and head."""
        chosen = score_pairs(self._value_model, self._units, self.resolved.recipe.max_normalised)[:, 0]
        self._normalised = normalise(self._value_model, chosen)
        save_value_model(self._value_model, self.base.tokenizer, self.job.folder / MODEL, self._normalised)
        return [MODEL]

    def report(self, n_steps: int, told: Told) -> Report:
        """Score the held-back pairs with the trained model."""
        assert self._normalised is not None  # `write` comes first
        what = (
            f"Reward model of {self.trained} and a scalar head: {n_steps:,} steps of {self.resolved.recipe.rows} "
            f"pairs, from {len(self._units):,}. Scores are shifted so that the chosen training replies have mean "
            f"0; their standard deviation is {self._normalised.deviation:.3g}."
        )
        if self._held_back is None:
            return Report(what)
        told("scoring held-back pairs")
        return Report(what, measured(score_pairs(self._value_model, self._held_back)))
