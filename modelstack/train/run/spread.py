"""Training state of a run on several processes: distributed model or stages, with optimizer and passes.

Each process creates only its part, with the values of the whole model (`parallel.materialise`).
"""

from __future__ import annotations

import torch

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.meta import on_meta
from modelstack.architecture.moe.balancing import balancer_of
from modelstack.errors import UserError
from modelstack.train.fp8 import convert_linears
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.parallel.materialise import materialise
from modelstack.train.parallel.mesh import Mesh, ParallelConfig
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.pipeline import join, make_stages
from modelstack.train.parallel.pipeline_passes import PipelinePasses
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.run.recipe import Resolved
from modelstack.train.step import TrainState


def parallel_config(resolved: Resolved) -> ParallelConfig:
    """Return the parallel settings of a recipe's model."""
    asked = resolved.recipe.parallel
    return ParallelConfig(
        layout=resolved.layout,
        precision="fp32" if resolved.precision == "fp32" else "bf16",
        pipeline_schedule=asked.pipeline_schedule,
        compile_blocks=asked.compile_blocks,
        reshard_after_forward=asked.reshard_after_forward,
    )


def spread(config: ModelConfig, resolved: Resolved, mesh: Mesh, frequency_V: list[float] | None) -> TrainState:
    """Return this rank's share of a run's training state, in its initial state.

    Args:
        config: Config of the whole model.
        resolved: The recipe.
        mesh: Mesh of its layout.
        frequency_V: Frequency of each token, for hash routing.

    Raises:
        UserError: The model does not match the layout.
    """
    if resolved.precision == "fp8" and resolved.layout.tp > 1:
        raise UserError(
            "precision fp8 is not supported with tp > 1, which would cut its blocks of 128; set tp = 1"
        )
    if resolved.layout.pp > 1:
        return _in_stages(config, resolved, mesh, frequency_V)
    with on_meta():
        model = _converted(CausalLM(config), resolved)
    parallelize(model, mesh, parallel_config(resolved))
    materialise(model, mesh.device, resolved.recipe.seed, frequency_V)
    return TrainState(
        model, build_optimizer(model, resolved.optimizer), ShardedPasses(model, mesh, balancer_of(model))
    )


def _in_stages(config: ModelConfig, resolved: Resolved, mesh: Mesh, frequency_V: list[float] | None) -> TrainState:
    parallel = parallel_config(resolved)
    with on_meta():
        stages = make_stages(
            config, parallel.pipeline_schedule, resolved.layout.pp, mesh.stage, n_tokens=resolved.row_tokens
        )
    for stage in stages:
        parallelize(_converted(stage, resolved), mesh, parallel)
        materialise(stage, mesh.device, resolved.recipe.seed, frequency_V)
    share = join(stages)
    passes = PipelinePasses(
        share,
        stages,
        mesh,
        parallel.pipeline_schedule,
        torch.float32 if parallel.precision == "fp32" else torch.bfloat16,
        balancer_of(share),
    )
    return TrainState(share, build_optimizer(share, resolved.optimizer), passes)


def _converted(model: CausalLM, resolved: Resolved) -> CausalLM:
    if resolved.precision == "fp8":
        convert_linears(model)
    return model
