"""A training run in a pipeline of gloo processes beside the same run in one, for the tests of pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.moe.balancing import BiasBalancer
from modelstack.data.batches import Batch
from modelstack.decide.memory import Layout
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.mesh import Mesh, ParallelConfig
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.pipeline import join, make_stages
from modelstack.train.parallel.pipeline_passes import PipelinePasses
from modelstack.train.step import StepReport, TrainState, local_state, train_step
from tests.modelstack.train.parallel_cases import compared, make_batch, whole_values
from tests.modelstack.train.toys import family_config

SEED = 3
SLOW_ADAMW = OptimizerConfig(name="adamw", lr=1e-3)
"""Adam divides a gradient by its own size, so where one is near 0 a rounding of it is a share of the step."""


@dataclass(frozen=True)
class PipelineCase:
    """One schedule of one model, trained for some steps."""

    schedule: str
    layout: Layout = Layout(pp=2)
    family: str = "llama"
    keys: dict[str, Any] = field(default_factory=lambda: {"num_hidden_layers": 4})
    """Of the family's config class."""
    own_keys: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of our config."""
    optimizer: OptimizerConfig = SLOW_ADAMW
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of `ParallelConfig`; where there are none and no other axis than pp, the stages stay as they are."""
    micro_batches: int = 4
    n_steps: int = 2
    max_norm: float = 0.05
    alter: Callable[[Batch], Batch] = lambda batch: batch

    @property
    def config(self) -> ModelConfig:
        return family_config(self.family, **self.keys).with_(**self.own_keys)

    def alone(self) -> PipelineCase:
        """Return the case with all settings at their defaults that a run of one process does not read."""
        return replace(self, schedule="", layout=Layout(shard=self.layout.data_ranks), options={})


def train_whole(case: PipelineCase) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    """Return the reports and the weights of one process that takes the batches of all data ranks."""
    model = initialise(CausalLM(case.config), SEED)
    state = local_state(model, build_optimizer(model, case.optimizer))
    return _train(case, state, range(case.layout.data_ranks)), dict(model.state_dict())


def train_in_stages(case: PipelineCase, mesh: Mesh) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    """Return the reports and the weights of all stages together."""
    state = pipeline_state(case, mesh)
    reports = _train(case, state, [mesh.data_rank])
    return reports, gathered(state.model, mesh)


def pipeline_state(case: PipelineCase, mesh: Mesh) -> TrainState:
    """Return this rank's share of a run."""
    config, layout = case.config, case.layout
    stages = make_stages(config, case.schedule, layout.pp, mesh.stage, n_tokens=16)
    for stage in stages:
        initialise(stage, SEED)
        if case.options or layout.n_devices > layout.pp:
            parallelize(
                stage, mesh, ParallelConfig.model_validate({"layout": layout, "precision": "fp32"} | case.options)
            )
    share = join(stages)
    has_bias = any(name.endswith("e_score_correction_bias") for name, _ in share.named_buffers())
    passes = PipelinePasses(share, stages, mesh, case.schedule, balancer=BiasBalancer(share) if has_bias else None)
    return TrainState(share, build_optimizer(share, case.optimizer), passes)


def gathered(share: nn.Module, mesh: Mesh) -> dict[str, torch.Tensor]:
    """Return the state dict of the whole model; a tied head's two copies must be equal."""
    found: list[Any] = [None] * mesh.layout.pp
    dist.all_gather_object(found, whole_state(share), group=mesh.pp.get_group())
    whole: dict[str, torch.Tensor] = {}
    for part in found:
        for name, value in part.items():
            assert name not in whole or torch.equal(whole[name], value), name
            whole[name] = value
    return whole


def whole_state(share: nn.Module) -> dict[str, torch.Tensor]:
    """Return a rank's state dict, gathered over its other axes."""
    values = whole_values(share)
    if "lm_head.weight" in share.state_dict() and "lm_head.weight" not in values:
        values["lm_head.weight"] = values["model.embed_tokens.weight"]
    return values


def all_differences(cases: Mapping[str, PipelineCase]) -> dict[str, dict[str, float]]:
    """Return `differences` of each case; a collective operation of all ranks."""
    return compared(cases, train_whole, differences)


def differences(
    case: PipelineCase, mesh: Mesh, expected: list[StepReport], whole: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return how far losses, gradient norms and weights are from one process's."""
    reports, spread = train_in_stages(case, mesh)
    model = CausalLM(case.config)
    model.load_state_dict(spread, strict=True)
    loaded = model.state_dict()
    pairs = list(zip(reports, expected, strict=True))
    assert all(a.losses.keys() == b.losses.keys() for a, b in pairs), (reports[0].losses, expected[0].losses)
    assert [report.n_tokens for report in reports] == [report.n_tokens for report in expected]
    return {
        "loss": max(abs(a.losses[name] - b.losses[name]) for a, b in pairs for name in b.losses),
        "norm": max(abs(a.gradient_norm / b.gradient_norm - 1) for a, b in pairs),
        "weights": max((whole[name] - loaded[name]).abs().max().item() for name in whole),
    }


def _train(case: PipelineCase, state: TrainState, ranks: Any) -> list[StepReport]:
    n_ranks, reports = case.layout.data_ranks, []
    for step in range(case.n_steps):
        first = step * case.micro_batches
        batches = [
            case.alter(make_batch((first + micro) * n_ranks + rank))
            for micro in range(case.micro_batches)
            for rank in ranks
        ]
        reports.append(train_step(state, batches, max_norm=case.max_norm))
    return reports


def with_forced_experts(batch: Batch) -> Batch:
    """Return the batch with choices for layer 3."""
    n = batch.n_tokens
    chosen = torch.stack((torch.arange(n) % 8, (torch.arange(n) + 3) % 8), dim=-1)
    return replace(batch, forced_experts={3: chosen})
