"""A resolved recipe and its examples become a `Run`: the base with an adapter or all its weights, on the one loop.

Everything is seeded by the recipe; nothing here has a default of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import TokenLoss
from modelstack.posttrain.driver import guarded_run, steps_of
from modelstack.posttrain.lora.adapters import lora_optimizer
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.state import adapter_state
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.run_folder import RunFolder
from modelstack.sft.clock import Clock
from modelstack.sft.loader import SftLoader, row_order
from modelstack.sft.prepare import Prepared
from modelstack.sft.recipe import SftResolved
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.loop import Hook, Run
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.precision import with_fp32_masters
from modelstack.train.schedules import schedule
from modelstack.train.step import TrainState, local_state


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
) -> Assembled:
    """Make the run, at its beginning.

    Args:
        resolved: The recipe.
        prepared: What it reads and starts from; the base becomes the run's.
        folder: Where it is kept.
        on_event: Is told of everything that is not ordinary.

    Raises:
        UserError: Parts do not fit together.
    """
    recipe = resolved.recipe
    data = recipe.data
    loader = SftLoader(
        prepared.training,
        row_order(data, rows=recipe.rows, seed=recipe.seed, row_tokens=data.row_tokens, layout=data.layout),
        rows_per_batch=recipe.rows // recipe.micro_batches,
    )
    n_steps = steps_of(recipe, loader.rows_per_epoch)
    factor = schedule(recipe.schedule.over(n_steps))
    clock = Clock(factor, n_steps, recipe.minutes) if recipe.minutes else None
    hooks: dict[str, Hook] = {} if clock is None else {"clock": clock}
    state = trained_state(prepared.base.model, recipe, resolved.lora, token_loss=recipe.loss)
    factor = clock.factor if clock else factor
    run, supervisor = guarded_run(recipe, state, loader, n_steps, factor, folder, on_event, hooks)
    return Assembled(run, supervisor, loader, clock)


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
