"""A resolved recipe and its data become a `Run`: model, optimizer, loader, schedule, guard, checkpoints.

Everything is seeded by the recipe; nothing here has a default of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.shards import Shards
from modelstack.runs.folder import RunFolder
from modelstack.runs.prepare import Prepared
from modelstack.runs.recipe import Resolved
from modelstack.stability.guard import Guard
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.fp8 import convert_linears
from modelstack.train.loop import LoopConfig, Run
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.precision import Fp32Masters, with_fp32_masters
from modelstack.train.schedules import schedule
from modelstack.train.step import local_state


@dataclass(frozen=True, slots=True)
class Assembled:
    """A run that can begin."""

    run: Run
    supervisor: GuardedRun
    model: CausalLM


def model_config(resolved: Resolved, prepared: Prepared) -> ModelConfig:
    """Return the recipe's shape with the vocabulary of the tokenizer."""
    index = prepared.shards.index
    return resolved.model.with_(
        vocab_size=len(prepared.tokenizer.vocabulary.token_bytes),
        bos_token_id=index.begin_id,
        eos_token_id=index.end_id,
        pad_token_id=None,
    )


def assemble(
    resolved: Resolved, prepared: Prepared, folder: RunFolder, on_event: Callable[[str], None]
) -> Assembled:
    """Make the run of one process, at its beginning.

    Args:
        resolved: The recipe.
        prepared: What it reads.
        folder: Where it is kept.
        on_event: Is told of everything that is not ordinary.

    Raises:
        UserError: Parts do not fit together.
    """
    recipe = resolved.recipe
    torch.manual_seed(recipe.seed)
    model = CausalLM(model_config(resolved, prepared))
    initialise(model, recipe.seed, _frequency(model.config, prepared.shards))
    supervisor = GuardedRun(
        Guard(recipe.guard),
        LocalStore(folder.checkpoints, recipe.checkpoints.keep),
        SupervisorConfig(save_every=recipe.checkpoints.every),
        on_event,
    )
    run = Run(
        LoopConfig(n_steps=resolved.steps, micro_batches=resolved.micro_batches, max_norm=recipe.max_norm),
        local_state(model, _optimizer(model, resolved)),
        loader(resolved, prepared.shards),
        schedule(resolved.schedule),
        supervisor,
    )
    return Assembled(run, supervisor, model)


def loader(resolved: Resolved, shards: Shards, rank: int = 0, world: int = 1) -> PackedLoader:
    """Return the run's batches for one data rank.

    Raises:
        UserError: Weights do not fit the sources.
    """
    data = resolved.recipe.data
    packing = PackingConfig(
        row_tokens=resolved.row_tokens,
        kind=data.packing,
        window_rows=data.window_rows,
        seed=resolved.recipe.seed,
        weights=data.weights,
    )
    return PackedLoader(shards, packing, rows_per_batch=resolved.rows_per_batch, rank=rank, world=world)


def _optimizer(model: CausalLM, resolved: Resolved) -> torch.optim.Optimizer | Fp32Masters:
    def build(of: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(of, resolved.optimizer)

    if resolved.precision == "fp32":
        return build(model)
    if resolved.precision == "fp8":
        convert_linears(model)
    return with_fp32_masters(model, build)


def _frequency(config: ModelConfig, shards: Shards) -> list[float] | None:
    """Return how often each token occurs, for routers that deal experts by it."""
    if "hash_moe" not in config.mlp_layer_types:
        return None
    return shards.token_counts(config.vocab_size).tolist()
