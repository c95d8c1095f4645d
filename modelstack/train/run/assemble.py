"""Construction of a `Run` from a resolved recipe and its prepared data.

The recipe seeds everything; this module has no defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.data.loader import AnnealingMix, PackedLoader, PackingConfig
from modelstack.data.shards import Shards
from modelstack.errors import UserError
from modelstack.run_folder import RunFolder
from modelstack.stability.agreement import Ranks
from modelstack.stability.anticipatory import AnticipatoryLoader, AnticipatoryRouting, chosen_now
from modelstack.stability.checkpoint_folders import checkpoints, kind_of
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import parse
from modelstack.stability.guard import Guard
from modelstack.stability.memory_checkpoints import CHECKSUM, KEEP, open_memory
from modelstack.stability.run_checkpoints import CheckpointStore, LocalStore
from modelstack.stability.run_events import EventLog
from modelstack.stability.sharded_checkpoints import ShardedStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.fp8 import convert_linears
from modelstack.train.loop import LoopConfig, Run
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.parallel.blocks import apply_checkpointing, compile_blocks
from modelstack.train.parallel.mesh import Mesh
from modelstack.train.precision import Fp32Masters, with_fp32_masters
from modelstack.train.run.prepare import Prepared
from modelstack.train.run.recipe import BranchRecipe, Resolved
from modelstack.train.run.spread import spread
from modelstack.train.schedules import schedule
from modelstack.train.step import TrainState, local_state


@dataclass(frozen=True, slots=True)
class Assembled:
    """A run that is ready to start."""

    run: Run
    supervisor: GuardedRun
    config: ModelConfig
    """Config of the whole model."""


def model_config(resolved: Resolved, prepared: Prepared) -> ModelConfig:
    """Return the recipe's model config with the vocabulary of the tokenizer."""
    index = prepared.shards.index
    return resolved.model.with_(
        vocab_size=len(prepared.tokenizer.vocabulary.token_bytes),
        bos_token_id=index.begin_id,
        eos_token_id=index.end_id,
        pad_token_id=None,
    )


def assemble(
    resolved: Resolved,
    prepared: Prepared,
    folder: RunFolder,
    on_event: Callable[[str], None],
    *,
    device: torch.device,
    mesh: Mesh | None = None,
    log: EventLog | None = None,
) -> Assembled:
    """Create the run in its initial state.

    Args:
        resolved: The recipe.
        prepared: The prepared data.
        folder: Folder of the run.
        on_event: Receives messages on unusual events.
        device: Device of the model.
        mesh: Mesh of the processes that share the run; None: a single process.
        log: Records steps and checkpoints of this process, for `modelstack goodput`.

    Raises:
        UserError: Parts of the recipe do not match.
    """
    recipe = resolved.recipe
    torch.manual_seed(recipe.seed)
    config = model_config(resolved, prepared)
    frequency = _frequency(config, prepared.shards)
    state = (
        _single_process_state(config, resolved, device, frequency)
        if mesh is None
        else spread(config, resolved, mesh, frequency)
    )
    ranks = Ranks.of_run()
    store = open_store(resolved, folder, mesh)

    def in_memory(path: Path) -> CheckpointStore:
        background = recipe.checkpoints.in_background
        made = (
            LocalStore(path, KEEP, CHECKSUM)
            if mesh is None
            else ShardedStore(path, KEEP, in_background=background, checksum=CHECKSUM)
        )
        return log.watching(made) if log else made

    supervisor = GuardedRun(
        Guard(recipe.guard, ranks.worst),
        log.watching(store) if log else store,
        SupervisorConfig(save_every=recipe.checkpoints.every),
        on_event,
        memory=open_memory(folder.checkpoints, recipe.checkpoints.memory_every, ranks, in_memory, on_event),
    )
    run = Run(
        _loop(resolved),
        state,
        loader(resolved, prepared.shards, *((mesh.data_rank, resolved.layout.data_ranks) if mesh else (0, 1))),
        schedule(resolved.schedule),
        supervisor,
        {"events": log} if log else {},
        recipe.indexer.stage,
    )
    if recipe.anticipatory:
        _enable_anticipatory_routing(run, supervisor, resolved, mesh, on_event)
    if recipe.faults:
        inject(run, parse(recipe.faults, recipe.seed), folder.path, ranks.rank)
    return Assembled(run, supervisor, config)


def unsupervised(resolved: Resolved, prepared: Prepared, device: torch.device) -> Run:
    """Return a single-process run without guard and checkpoints, for runs of minutes as in a sweep.

    Raises:
        UserError: Parts of the recipe do not match.
    """
    torch.manual_seed(resolved.recipe.seed)
    config = model_config(resolved, prepared)
    return Run(
        _loop(resolved),
        _single_process_state(config, resolved, device, _frequency(config, prepared.shards)),
        loader(resolved, prepared.shards),
        schedule(resolved.schedule),
        index_stage=resolved.recipe.indexer.stage,
    )


def _loop(resolved: Resolved) -> LoopConfig:
    micro_batches, max_norm = resolved.micro_batches, resolved.recipe.max_norm
    return LoopConfig(n_steps=resolved.steps, micro_batches=micro_batches, max_norm=max_norm)


def open_store(resolved: Resolved, folder: RunFolder, mesh: Mesh | None) -> CheckpointStore:
    """Return the checkpoint store of a folder; every rank must call this.

    If a single process resumes a run of several processes, it keeps the sharded form that several can read.
    """
    kept = resolved.recipe.checkpoints
    is_sharded = any(kind_of(path) == "sharded" for _, path in checkpoints(folder.checkpoints)[:1])
    if mesh is None and not is_sharded:
        return LocalStore(folder.checkpoints, kept.keep)
    return ShardedStore(folder.checkpoints, kept.keep, in_background=kept.in_background)


def begin_from_branch(assembled: Assembled, branch: BranchRecipe, resolved: Resolved, mesh: Mesh | None) -> None:
    """Move a run without a checkpoint of its own to the state of another run.

    Raises:
        UserError: The other run has no complete checkpoint of the step, or is not the same run.
    """
    store = open_store(resolved, RunFolder(Path(branch.run)), mesh)
    loaded = store.load(assembled.supervisor.state_of(assembled.run), before=branch.step + 1)
    if loaded is None or loaded.step != branch.step:
        raise UserError(
            f"branch.run {branch.run} has no checkpoint of step {branch.step}; its folder "
            f"`checkpoints` shows the available steps, and checkpoints.keep limits their number"
        )
    assembled.supervisor.take_up(assembled.run, loaded)


def _enable_anticipatory_routing(
    run: Run,
    supervisor: GuardedRun,
    resolved: Resolved,
    mesh: Mesh | None,
    on_event: Callable[[str], None],
) -> None:
    """Enable anticipatory routing after a roll-back."""
    config = resolved.recipe.anticipatory
    assert config is not None
    if resolved.layout.pp > 1 or not resolved.model.has_experts:
        raise UserError("anticipatory requires a model with experts and no pipeline (pp = 1); omit it")
    model = cast(CausalLM, run.state.model)
    device = next(model.parameters()).device
    ahead = AnticipatoryLoader(
        run.loader,
        lambda batch: chosen_now(model, batch.to(device)),
        config.delay_steps * resolved.micro_batches,
        rank=mesh.data_rank if mesh else 0,
        world=resolved.layout.data_ranks,
        gather=mesh.gather_data if mesh else lambda own: own,
    )
    switch = AnticipatoryRouting(ahead, config, on_event)
    run.loader = ahead
    run.hooks["anticipatory"] = switch
    supervisor.on_roll_back = switch.after_roll_back


def _single_process_state(
    config: ModelConfig, resolved: Resolved, device: torch.device, frequency: list[float] | None
) -> TrainState:
    model = initialise(CausalLM(config), resolved.recipe.seed, frequency)
    if resolved.precision == "fp8":
        convert_linears(model)
    model.to(device)
    apply_checkpointing(model, resolved.layout.checkpointing)
    if resolved.recipe.parallel.compile_blocks:
        compile_blocks(model)
    return local_state(model, _optimizer(model, resolved))


def loader(resolved: Resolved, shards: Shards, rank: int = 0, world: int = 1) -> PackedLoader:
    """Return the run's batches for one data rank.

    Raises:
        UserError: The weights do not match the sources.
    """
    data = resolved.recipe.data
    anneal = None
    if data.anneal_weights is not None and data.anneal_share is not None:
        first_step = resolved.steps - round(data.anneal_share * resolved.steps)
        anneal = AnnealingMix(weights=data.anneal_weights, from_row=first_step * resolved.rows)
    packing = PackingConfig(
        row_tokens=resolved.row_tokens,
        kind=data.packing,
        window_rows=data.window_rows,
        seed=resolved.recipe.seed,
        weights=data.weights,
        anneal=anneal,
    )
    return PackedLoader(shards, packing, rows_per_batch=resolved.rows_per_batch, rank=rank, world=world)


def _optimizer(model: CausalLM, resolved: Resolved) -> torch.optim.Optimizer | Fp32Masters:
    def build(of: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(of, resolved.optimizer)

    if resolved.precision == "fp32":
        return build(model)
    return with_fp32_masters(model, build)


def _frequency(config: ModelConfig, shards: Shards) -> list[float] | None:
    """Return the frequency of each token if hash routers need it to assign experts; None: they do not."""
    if "hash_moe" not in config.mlp_layer_types:
        return None
    return shards.token_counts(config.vocab_size).tolist()
