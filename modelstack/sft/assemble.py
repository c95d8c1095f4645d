"""A resolved recipe and its examples become a `Run`: the base with an adapter or all its weights, on the one loop.

Everything is seeded by the recipe; nothing here has a default of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import TokenLoss
from modelstack.runs.folder import RunFolder
from modelstack.sft.adapter_state import adapter_state
from modelstack.sft.clock import Clock
from modelstack.sft.loader import SftLoader, SftLoaderConfig
from modelstack.sft.lora import lora_optimizer
from modelstack.sft.lora_config import LoraConfig
from modelstack.sft.prepare import Prepared
from modelstack.sft.recipe import SftRecipe, SftResolved
from modelstack.sft.tokenised import Tokenised
from modelstack.sft.tuning import TuningRecipe
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import parse
from modelstack.stability.guard import Guard
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.run_events import EventLog
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import Hook, LoopConfig, Run
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.precision import with_fp32_masters
from modelstack.train.schedules import schedule
from modelstack.train.step import TrainState, local_state

WINDOW_ROWS = 256
"""About so many are packed, or sorted by length, together."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A fine-tuning that can begin."""

    run: Run
    supervisor: GuardedRun
    loader: SftLoader
    """The run's, faults of a drill not around it."""
    clock: Clock | None
    """Where the recipe limits the time."""

    @property
    def model(self) -> CausalLM:
        """Base and adapter, or the model that was the base."""
        return cast(CausalLM, self.run.state.model)

    @property
    def is_over(self) -> bool:
        """Whether all steps are taken, or the time is over; one step is always taken."""
        step = self.run.state.step
        return step >= self.run.config.n_steps or (step > 0 and self.clock is not None and self.clock.is_over)


def assemble(
    resolved: SftResolved,
    prepared: Prepared,
    folder: RunFolder,
    on_event: Callable[[str], None],
    log: EventLog,
) -> Assembled:
    """Make the run, at its beginning.

    Args:
        resolved: The recipe.
        prepared: What it reads and starts from; the base becomes the run's.
        folder: Where it is kept.
        on_event: Is told of everything that is not ordinary.
        log: Notes steps and checkpoints, for `modelstack goodput`.

    Raises:
        UserError: Parts do not fit together.
    """
    recipe = resolved.recipe
    loader = _loader(recipe, prepared.training)
    n_steps = recipe.steps or max(1, math.ceil(recipe.epochs * loader.rows_per_epoch / recipe.rows))
    supervisor = GuardedRun(
        Guard(recipe.guard),
        log.watching(LocalStore(folder.checkpoints, recipe.checkpoints.keep)),
        SupervisorConfig(save_every=recipe.checkpoints.every),
        on_event,
    )
    factor = schedule(recipe.schedule.over(n_steps))
    clock = Clock(factor, n_steps, recipe.minutes) if recipe.minutes else None
    hooks: dict[str, Hook] = {"events": log}
    if clock is not None:
        hooks["clock"] = clock
    run = Run(
        LoopConfig(n_steps=n_steps, micro_batches=recipe.micro_batches, max_norm=recipe.max_norm),
        trained_state(prepared.base.model, recipe, resolved.lora, token_loss=recipe.loss),
        loader,
        clock.factor if clock else factor,
        supervisor,
        hooks,
    )
    if recipe.faults:
        inject(run, parse(recipe.faults, recipe.seed), folder.path, 0)
    return Assembled(run, supervisor, loader, clock)


def _loader(recipe: SftRecipe, data: Tokenised) -> SftLoader:
    shares = {file.path: file.share for file in recipe.data.training if file.share is not None}
    config = SftLoaderConfig(
        row_tokens=recipe.data.row_tokens,
        layout=recipe.data.layout,
        window_rows=recipe.rows * math.ceil(WINDOW_ROWS / recipe.rows),
        group_rows=recipe.rows,
        seed=recipe.seed,
        shares=shares or None,
    )
    return SftLoader(data, config, rows_per_batch=recipe.rows // recipe.micro_batches)


def trained_state(
    model: CausalLM, recipe: TuningRecipe, lora: LoraConfig | None, *, token_loss: TokenLoss = "cross_entropy"
) -> TrainState:
    """Return the state of a model whose adapter, or all of whose weights, the recipe's optimizer moves."""
    if lora is not None:
        return adapter_state(model, lora_optimizer(model, lora, recipe.optimizer), token_loss=token_loss)

    def build(of: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(of, recipe.optimizer)

    optimizer = build(model) if recipe.precision == "fp32" else with_fp32_masters(model, build)
    return local_state(model, optimizer, token_loss=token_loss)
