"""Training of a drafter on a frozen model, from a recipe to a stage with the module alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from rich.console import Console

from modelstack.architecture.draft_module import add_draft_module, save_draft_module
from modelstack.data.examples import Example
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.stages.record import Kind
from modelstack.posttrain.stages.stage import DRAFTER, Stage
from modelstack.posttrain.starting_point import device_kind
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.reasoning.distil.loader import DistilLoader, loader_for
from modelstack.reasoning.drafter.passes import DrafterPasses, acceptance
from modelstack.reasoning.drafter.recipe import DrafterRecipe
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.sft.prior.exact_calls import chosen
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.sft.training_data import read_training_data

AGREEMENT_FILE = "agreement.jsonl"
"""File of the metrics of each step."""
DrafterResolved = TuningResolved[DrafterRecipe]


def train_drafter(recipe: DrafterRecipe, path: Path, console: Console) -> Stage | None:
    """Train a drafter; see `run_training`."""
    return run_training(DrafterTraining, recipe, path, console)


class DrafterTraining(Training[DrafterResolved]):
    """Training of a module for multi-token prediction on a model that stays as it is."""

    kind: ClassVar[Kind] = "drafter"
    values_file: ClassVar[str] = AGREEMENT_FILE

    def __init__(self, job: Job[DrafterResolved], told: Told) -> None:
        """Read the examples, load the model, and give it a module."""
        super().__init__(job, told)
        recipe = self.resolved.recipe
        told("reading examples")
        read = read_training_data(recipe.data)
        told("loading the model")
        self.base = load_merged(job.start, precision=recipe.precision, device=device_kind(recipe))
        told("rendering examples")
        self._examples = self._tokenised(read.training)
        self._held_back: Tokenised | None = None
        if read.validation:
            drawn = chosen(read.validation, recipe.max_validation, recipe.seed)
            self._held_back = self._tokenised({"validation": drawn})
        self.data = read.manifest.model_copy(update={"n_too_long": sum(self._examples.n_dropped.values())})
        self.n_rows = self._examples.n_examples
        model = self.base.model
        draft_ids = None if recipe.draft_tokens is None else frequent_targets(self._examples, recipe.draft_tokens)
        add_draft_module(model, draft_ids, n_steps=recipe.loss.steps, seed=recipe.seed)
        assert model.mtp is not None
        torch.manual_seed(recipe.seed)  # checkpoints hold torch's random state
        self.model = model.mtp

    def measure(self, told: Told) -> None:
        """Measure the acceptance on held-back examples of a module that is still a copy of the last layer."""
        if self._held_back is not None:
            told("measuring acceptance on held-back examples")
            self.before = acceptance(self.base.model, self._held_back)

    def parts(self) -> tuple[DistilLoader, DrafterPasses]:
        """Return the loader of given or sampled replies, and the passes of the loss."""
        recipe, base = self.resolved.recipe, self.base
        n_rows, plan = self.rows_per_batch, recipe.on_policy
        loader = loader_for(base, self._examples, self.row_order(), rows_per_batch=n_rows, on_policy=plan)
        return loader, DrafterPasses(base.model, recipe.loss)

    def write(self) -> list[str]:
        """Write the module; the model itself is not part of the stage."""
        save_draft_module(self.base.model, self.job.folder / DRAFTER, self.resolved.base_sha256)
        return [DRAFTER]

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure the acceptance on held-back examples."""
        recipe, model = self.resolved.recipe, self.base.model
        n_drafted = model.config.vocab_size if model.draft_vocabulary is None else len(model.draft_vocabulary.ids)
        what = (
            f"Drafter for {self.resolved.parent.name}: up to {recipe.loss.steps} tokens of a vocabulary of "
            f"{n_drafted:,}; {n_steps:,} steps of {recipe.rows} replies, from "
            f"{self._examples.n_examples:,} examples."
        )
        if self._held_back is None:
            return Report(what)
        told("measuring acceptance on held-back examples")
        return Report(what, acceptance(model, self._held_back))

    def _tokenised(self, examples: Mapping[str, Sequence[Example]]) -> Tokenised:
        recipe, base = self.resolved.recipe, self.base
        row_tokens = min(recipe.data.row_tokens, base.config.max_position_embeddings)
        options = recipe.data.render
        return tokenise(examples, base.encoder, row_tokens=row_tokens, options=options, seed=recipe.seed)


def frequent_targets(data: Tokenised, n_tokens: int) -> torch.Tensor:
    """Return the ids of the most frequent targets, in ascending order; fewer if there are not as many."""
    ids, counts = np.unique(data.ids[data.weights > 0], return_counts=True)
    likeliest = ids[np.argsort(-counts, kind="stable")[:n_tokens]]
    return torch.from_numpy(np.sort(likeliest).astype(np.int64))
