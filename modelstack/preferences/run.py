"""Preference training: DPO and its relatives on pairs or on single completions.

The reference is the model before training. Its log-probabilities are computed before the first step and stored in
the run's folder, so that a resumed run does not compute them again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import ClassVar, cast

import torch
from rich.console import Console
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.measuring import kept_tensors
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.stages.record import Kind
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import load_start
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.preferences.data import read_sides
from modelstack.preferences.loader import UnitLoader
from modelstack.preferences.methods import form_of, has_reference
from modelstack.preferences.passes import PreferencePasses
from modelstack.preferences.recipe import PreferenceRecipe
from modelstack.preferences.scores import Sums, progress, rewards_of, score, standing

REFERENCE_FILE = "reference.safetensors"
PreferenceResolved = TuningResolved[PreferenceRecipe]


def prefer(recipe: PreferenceRecipe, path: Path, console: Console) -> Stage | None:
    """Train on preferences; see `run_training`."""
    return run_training(PreferenceTraining, recipe, path, console)


class PreferenceTraining(Training[PreferenceResolved]):
    """Training on preferences."""

    kind: ClassVar[Kind] = "preference"
    is_spread: ClassVar[bool] = True

    def __init__(self, job: Job[PreferenceResolved], told: Told) -> None:
        """Read and render the preferences, and load the base."""
        super().__init__(job, told)
        recipe = self.resolved.recipe
        told("reading preferences")
        sides = read_sides(recipe.data)
        told("loading the base")
        self.base = load_start(recipe, self.resolved.lora, job.start, job.processes.mesh)
        self.model = self.base.model
        told("rendering preferences")
        self._units = units = sides.units(recipe.data, form_of(recipe.method), self.base)
        self._held_back = sides.held_back(recipe.data, self.base, recipe.max_validation, recipe.seed)
        self._sums: Sums | None = None
        self._reference: Tensor | None = None
        self.data = sides.manifest(recipe.data, units)
        self.n_rows = len(units)

    def measure(self, told: Told) -> None:
        """Score held-back pairs, and all units by the reference if the method has one."""
        if self._held_back is not None:
            told("measuring the base on held-back pairs")
            self._sums = score(self.base.model, self._held_back)
            self.before = standing(self._sums)
        if has_reference(self.resolved.recipe.method):
            self._reference = self._kept_reference(told)

    def parts(self) -> tuple[UnitLoader, PreferencePasses]:
        """Return the loader of units and the passes of the method's loss."""
        recipe, units = self.resolved.recipe, self._units
        rank, world = self.job.processes.rank, self.job.processes.world
        loader = UnitLoader(units, self.row_order(), rows_per_batch=self.rows_per_batch, rank=rank, world=world)
        is_desirable = torch.from_numpy(units.is_desirable)
        model = cast(CausalLM, self.model)
        return loader, PreferencePasses(model, recipe.method, is_desirable, self._reference)

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure held-back pairs, relative to the model before training."""
        recipe = self.resolved.recipe
        rows = "pairs" if self._units.form == "pairs" else "replies"
        what = (
            f"Preference training ({recipe.method.name}) of {self.trained}: {n_steps:,} steps of {recipe.rows} "
            f"{rows}, from {len(self._units):,}."
        )
        if self._held_back is None or self._sums is None:
            return Report(what)
        told("measuring on held-back pairs")
        after = score(self.base.model, self._held_back)
        return Report(what, (*standing(after), *progress(rewards_of(recipe.method, after, self._sums))))

    def _kept_reference(self, told: Told) -> Tensor:
        """Return the sums of the reference over all units, fp32 [U, 2]."""
        resolved, units = self.resolved, self._units
        content = [resolved.base_sha256, resolved.parent.sha256, resolved.recipe.precision, units.fingerprint()]

        def asked(n: int) -> None:
            told(f"scoring by the reference: {n:,} of {len(units):,}")

        return kept_tensors(
            self.job.folder / REFERENCE_FILE,
            hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            lambda: {"sums": torch.from_numpy(score(self.base.model, units, asked).log_probs)},
            self.job.processes,
        )["sums"]
