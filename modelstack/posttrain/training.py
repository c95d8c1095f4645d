"""Interface between the driver and the methods of post-training.

A method supplies its rows, its loader, its passes with their loss, and its report. The driver does everything
else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from torch import nn

from modelstack.architecture.decoder import CausalLM
from modelstack.data.batches import Loader
from modelstack.posttrain.base import Base
from modelstack.posttrain.lora.adapters import lora_optimizer
from modelstack.posttrain.processes import Processes
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.row_loader import Layout, RowOrder, row_order
from modelstack.posttrain.sealing import moved_weights, write_trained
from modelstack.posttrain.stages.record import DataManifest, Kind, Measurement
from modelstack.posttrain.starting_point import StartingPoint
from modelstack.posttrain.values_hook import REWARDS_FILE
from modelstack.train.loop import Hook
from modelstack.train.metrics import Metrics
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.passes import Passes

Told = Callable[[str], object]
"""Receives a progress message."""
Resolved = TypeVar("Resolved", bound=TuningResolved[Any])


class TuningLoader(Loader, Protocol):
    """`Loader` that counts its tokens."""

    @property
    def n_tokens(self) -> int:
        """Tokens given so far, without padding."""
        ...


@dataclass(frozen=True, slots=True)
class Job(Generic[Resolved]):
    """Run whose data and model are not read yet."""

    resolved: Resolved
    start: StartingPoint
    folder: Path
    processes: Processes
    held: ExitStack
    """Closes child processes and engines of the method at the end."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a training, for its card."""

    what: str
    """Sentence that describes how the stage was trained."""
    after: tuple[Measurement, ...] = ()
    """Measurements named in `Training.before`, repeated on the trained model."""
    parts: tuple[str, ...] = ()
    """Files that this method adds to the stage."""


class Training(ABC, Generic[Resolved]):
    """Training by one method.

    The driver calls `resolve`, creates an object of the class, and calls `measure`, `optimizer`, `parts` and
    `hooks`. At the end it calls `write` and `report`.
    """

    kind: ClassVar[Kind]
    """Kind of the stage."""
    is_spread: ClassVar[bool] = False
    """Whether the method supports several processes."""
    values_file: ClassVar[str] = REWARDS_FILE
    """File of the metrics of `TuningPasses`, one line a step."""

    base: Base
    """Model on its device, with the adapter to train, and its tokenizer; sharded if several processes share it."""
    model: nn.Module
    """Module that the optimizer updates: the base model, a wrapper of it, or a sharded copy of it."""
    data: DataManifest
    """Files that were read."""
    n_rows: int
    """Rows, or prompts, of an epoch."""
    before: tuple[Measurement, ...] = ()
    """Held-back measurements before training."""

    def __init__(self, job: Job[Resolved], told: Told) -> None:
        """Read rows and model.

        The first process does this before the others, so nothing here may run a sharded model.

        Args:
            job: The run.
            told: Receives progress.

        Raises:
            UserError: A file is broken, or a row is both trained on and measured on.
        """
        self.job = job
        self.resolved = job.resolved

    @abstractmethod
    def measure(self, told: Told) -> None:
        """Measure the model on held-back rows before training; all processes call this together.

        Args:
            told: Receives progress.
        """

    @classmethod
    def resolve(cls, recipe: Any, start: StartingPoint) -> TuningResolved[Any]:
        """Return the recipe with every default and hash filled in.

        Raises:
            UserError: A file is missing, or parts of the recipe contradict each other.
        """
        return TuningResolved[type(recipe)](**resolved_parts(recipe, start))

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        recipe = self.resolved.recipe
        return recipe.steps or max(1, math.ceil(recipe.epochs * self.n_rows / recipe.rows))

    @property
    def rows_per_batch(self) -> int:
        """Rows of a micro-batch in this process.

        Raises:
            UserError: The rows of a micro-batch are not a multiple of the number of processes.
        """
        recipe = self.resolved.recipe
        return self.job.processes.own(recipe.rows // recipe.micro_batches, "rows / micro_batches")

    def row_order(self, layout: Layout = "padded") -> RowOrder:
        """Return the order of the training rows; the recipe's data must have `row_tokens`."""
        recipe = self.resolved.recipe
        data = recipe.data
        return row_order(data, rows=recipe.rows, seed=recipe.seed, row_tokens=data.row_tokens, layout=layout)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step in this process."""
        return self.resolved.recipe.micro_batches

    @abstractmethod
    def parts(self) -> tuple[TuningLoader, Passes]:
        """Return the loader and the passes; called after `optimizer`, which may cast the model."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the trained weights, those of the adapter or all."""
        recipe, lora = self.resolved.recipe, self.resolved.lora
        if lora is None:
            return build_optimizer(model, recipe.optimizer)
        return lora_optimizer(cast(CausalLM, model), lora, recipe.optimizer)

    def hooks(self, metrics: Metrics) -> dict[str, Hook]:
        """Return the method's own hooks by name."""
        return {}

    def after_roll_back(self) -> None:
        """Discard state that belongs to the weights before a roll-back."""

    def write(self) -> list[str]:
        """Write the trained weights into the run's folder; return their names in it."""
        return write_trained(self.base.model, self.base.tokenizer, self.resolved, self.job.folder)

    @abstractmethod
    def report(self, n_steps: int, told: Told) -> Report:
        """Measure the trained model and describe the training.

        Args:
            n_steps: Steps that were taken.
            told: Receives progress.
        """

    @property
    def trained(self) -> str:
        """Name of the parent and description of the trained weights, for the sentence of the report."""
        return f"{self.resolved.parent.name}, {moved_weights(self.resolved.lora)}"
