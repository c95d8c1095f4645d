"""Passes of a model whose layers are on several ranks; torch's schedules run them.

A step's micro-batches are the micro-batches of the schedule: all ranks of a pipeline get the same ones. Losses are
divided by the number of labels of the whole step, so gradients add up and torch's own scaling is off. Shapes
between stages are known from the batch, so torch needs no extra forward pass to find them.

Letters: B rows, T tokens, M micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class

from modelstack.architecture.attention.indexer_loss import indexer_parameters
from modelstack.architecture.context import Routing
from modelstack.architecture.moe.balancing import BiasBalancer
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.train.parallel.mesh import DATA_AXES, Mesh
from modelstack.train.parallel.pipeline import Stage, loss_names, travels
from modelstack.train.parallel.pipeline_schedules import check_micro_batches, schedule_kind
from modelstack.train.parallel.pipeline_tied import (
    add_gradients_of_copies,
    local_gradient,
    moved_copy,
    refresh_copy,
)
from modelstack.train.parallel.spread_passes import CLIP_EPS, clip_gradients
from modelstack.train.passes import clip_apart, settle_balancer


@dataclass(slots=True)
class PipelinePasses:
    """Passes of a model in stages, each sharded or not."""

    share: nn.Module
    """The module that `join` makes of the stages; the optimizer updates it."""
    stages: list[Stage]
    """The stages of this rank, in order; after `parallelize` if they are distributed further."""
    mesh: Mesh
    schedule: str
    """A name of `pipeline_schedules.SCHEDULES`."""
    dtype: torch.dtype = torch.float32
    """Type of the sent tensors, in which the blocks compute."""
    balancer: BiasBalancer | None = None
    """Balancer of this rank's layers."""
    _made: tuple[tuple[int, ...], Any] | None = None
    """The numbers M, B, T and the schedule for M micro-batches of B x T."""
    _losses: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __post_init__(self) -> None:
        """Observe the stages, and make FSDP keep their weights gathered between forward and backward passes.

        Several micro-batches are processed at once, and the zero-bubble schedules look up a stage's weights
        between the two passes: for freed weights, the gradient would be missing.
        """
        for stage in self.stages:
            stage.observer = self._observe
            if isinstance(stage, FSDPModule):
                stage.set_reshard_after_forward(False)

    def total(self, n: float) -> float:
        """Return the sum over the ranks with different batches."""
        return float(self.mesh.sum_over_data(torch.tensor(n, dtype=torch.float64, device=self.mesh.device)))

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Run the micro-batches of one step through the pipeline; return the losses of all ranks.

        Raises:
            UserError: The schedule does not support the number of micro-batches, or their shapes differ.
        """
        schedule = self._schedule(batches)
        self._losses.clear()
        refresh_copy(self.stages)
        device = self.mesh.device
        inputs = {
            "ids_BT": torch.cat([batch.ids_BT for batch in batches]).to(device),
            "labels_BT": torch.cat([batch.labels_BT for batch in batches]).to(device),
            "documents_BT": torch.cat([batch.documents_BT for batch in batches]).to(device),
            "forced_experts": {layer: experts.to(device) for layer, experts in _join_forced(batches).items()},
            "n_labels": n_labels,
        }
        if any(batch.weights_BT is not None for batch in batches):
            inputs["weights_BT"] = torch.cat([_weights(batch) for batch in batches]).to(device)
        if any(batch.counted_BT is not None for batch in batches):
            inputs["counted_BT"] = torch.cat([_counted(batch) for batch in batches]).to(device)
        schedule.step(target=inputs["labels_BT"], return_outputs=False, **inputs)
        add_gradients_of_copies(self.stages, self.mesh)
        return self._total_losses()

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm of the whole model before."""
        copy = moved_copy(self.stages)
        counted = [parameter for parameter in self.share.parameters() if parameter is not copy]
        norm = clip_apart(
            counted,
            indexer_parameters(self.share),
            lambda parameters: clip_gradients(
                parameters, max_norm, lambda squared: self.mesh.sum_over(squared, "pp"), self.mesh.device
            ),
            has_indexer=self.stages[0].config.has_indexer,
        )
        if copy is not None and copy.grad is not None:
            local_gradient(copy).mul_(min(1.0, max_norm / (norm + CLIP_EPS)))
        return norm

    def settle(self, taken: bool) -> None:
        """Update the balancing biases of this rank's layers from the counts of all ranks, or reset the counts."""
        settle_balancer(self.balancer, taken, self.mesh.sum_over_data)

    def _observe(self, routing: Mapping[int, Routing], losses: Mapping[str, Tensor], counted_BT: Tensor) -> None:
        if self.balancer is not None:
            self.balancer.count(routing, counted_BT)
        for name, loss in losses.items():
            self._losses[name] = self._losses[name] + loss if name in self._losses else loss

    def _schedule(self, batches: Sequence[Batch]) -> Any:
        shapes = {tuple(batch.ids_BT.shape) for batch in batches}
        if len(shapes) > 1:
            raise UserError(
                f"a pipeline's micro-batches must have one shape, but these have {sorted(shapes)}; "
                f"make the loader yield the same number of rows of the same length each time"
            )
        key = (len(batches), *shapes.pop())
        if self._made is None or self._made[0] != key:
            self._made = key, self._make_schedule(*key)
        return self._made[1]

    def _make_schedule(self, n_micro_batches: int, n_rows: int, n_tokens: int) -> Any:
        first = self.stages[0]
        check_micro_batches(self.schedule, self.mesh.layout.pp, first.n_stages, n_micro_batches)
        # Between blocks, tensor parallelism splits the tokens.
        sent = travels(first.config, n_rows, n_tokens // self.mesh.layout.tp, self.dtype)
        loss = torch.empty((), device="meta", requires_grad=True)
        stages = [
            PipelineStage(
                stage,
                stage.index,
                stage.n_stages,
                self.mesh.device,
                input_args=() if stage.is_first else sent,
                output_args=loss if stage.is_last else sent,
                group=self.mesh.pp.get_group(),
            )
            for stage in self.stages
        ]
        is_single = schedule_kind(self.schedule).stages_per_rank == 1
        return get_schedule_class(self.schedule)(
            stages[0] if is_single else stages,  # pyright: ignore
            n_micro_batches,
            loss_fn=lambda output, target: output,
            scale_grads=False,
        )

    def _total_losses(self) -> dict[str, float]:
        """Return the losses of the last stage, summed over data ranks, with one message per axis."""
        names = loss_names(self.stages[0].config)
        zero = torch.zeros((), device=self.mesh.device)
        own = torch.stack([self._losses.get(name, zero).double() for name in names])
        return dict(zip(names, self.mesh.sum_over(own, "pp", *DATA_AXES).tolist(), strict=True))


def _weights(batch: Batch) -> Tensor:
    return torch.ones_like(batch.ids_BT, dtype=torch.float32) if batch.weights_BT is None else batch.weights_BT


def _counted(batch: Batch) -> Tensor:
    return torch.ones_like(batch.ids_BT, dtype=torch.bool) if batch.counted_BT is None else batch.counted_BT


def _join_forced(batches: Sequence[Batch]) -> dict[int, Tensor]:
    layers = {frozenset(batch.forced_experts) for batch in batches}
    if len(layers) > 1:
        raise UserError(
            f"micro-batches of one step force experts of different layers ({sorted(map(sorted, layers))}); "
            f"force experts of the same layers in each"
        )
    return {layer: torch.cat([batch.forced_experts[layer] for batch in batches]) for layer in layers.pop()}
