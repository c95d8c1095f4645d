"""Passes of a model that `parallelize` distributed over ranks, without a pipeline.

Losses, labels and balancing counts are summed over the ranks with different batches; FSDP does the same for
gradients in the backward pass. The gradient norm is that of the whole model. Each shard's squares are summed over
exactly the ranks that hold other parts of the same parameter, because matrices, norms and experts are on different
meshes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from modelstack.architecture.attention.indexer_loss import indexer_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import TokenLoss
from modelstack.architecture.moe.balancing import BiasBalancer
from modelstack.data.batches import Batch
from modelstack.train.parallel.mesh import Mesh
from modelstack.train.passes import add_gradients, clip_apart, settle_balancer

CLIP_EPS = 1e-6
"""Value of torch's `clip_grad_norm_`."""


@dataclass(frozen=True, slots=True)
class ShardedPasses:
    """Passes of a model on several ranks, each with all layers."""

    model: CausalLM
    """The model after `parallelize`."""
    mesh: Mesh
    balancer: BiasBalancer | None = None
    hold_whole_gradients: bool = False
    """Whether gradients of micro-batches are summed unsharded and reduced once, after the last. This saves
    communication and costs 4 bytes per parameter on each rank. Otherwise shards are reduced after each, and
    replicas after the last.
    """
    token_loss: TokenLoss = "cross_entropy"

    def total(self, n: float) -> float:
        """Return the sum over the ranks with different batches."""
        return float(self.mesh.sum_over_data(torch.tensor(n, dtype=torch.float64, device=self.mesh.device)))

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of this rank's micro-batches; return the losses of all ranks."""
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            self._expect(is_last=index == len(batches) - 1)
            for name, loss in add_gradients(self.model, self.balancer, batch, n_labels, self.token_loss).items():
                sums[name] = sums[name] + loss if name in sums else loss
        return total_losses(sums, self.mesh)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm of the whole model before."""
        return clip_apart(
            self.model.parameters(),
            indexer_parameters(self.model),
            lambda parameters: clip_gradients(parameters, max_norm),
        )

    def settle(self, taken: bool) -> None:
        """Update the balancing biases from the counts of all ranks, or reset the counts."""
        settle_balancer(self.balancer, taken, self.mesh.sum_over_data)

    def _expect(self, *, is_last: bool) -> None:
        """Tell FSDP what to reduce after the next backward pass."""
        model = self.model
        assert isinstance(model, FSDPModule)  # `parallelize` made it one
        model.set_is_last_backward(is_last)
        if self.hold_whole_gradients:
            model.set_requires_gradient_sync(is_last)
        else:
            model.set_requires_all_reduce(is_last)


def total_losses(sums: dict[str, Tensor], mesh: Mesh) -> dict[str, float]:
    """Return losses summed over the ranks with different batches, the same on each rank, with one message."""
    values = mesh.sum_over_data(torch.stack([loss.detach().double() for loss in sums.values()]))
    return dict(zip(sums, values.tolist(), strict=True))


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float,
    sum_over_stages: Callable[[Tensor], object] | None = None,
    device: torch.device | None = None,
) -> float:
    """Scale gradients down to a norm, like `torch.nn.utils.clip_grad_norm_`; return the norm before.

    Args:
        parameters: This rank's parameters, possibly on different meshes. A tied one counts once.
        max_norm: Maximum norm of the whole model's gradient.
        sum_over_stages: Sums a tensor in place over the ranks that hold other layers.
        device: Device of that tensor, needed if this rank may have no parameters; None: that of the first
            parameter.
    """
    return float(scale_gradients(parameters, max_norm, sum_over_stages, device))


def scale_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float,
    sum_over_stages: Callable[[Tensor], object] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Scale gradients like `clip_gradients`; return the norm on the device, float64."""
    own = [parameter for parameter in dict.fromkeys(parameters) if parameter.grad is not None]
    squared = squared_norm(own, device)
    if sum_over_stages is not None:
        sum_over_stages(squared)
    norm = squared.sqrt()
    factor = torch.clamp(max_norm / (norm + CLIP_EPS), max=1.0)
    for parameter in own:
        local = _local_gradient(parameter)
        local.mul_(factor.to(local.dtype))
    return norm


def squared_norm(parameters: Sequence[nn.Parameter], device: torch.device | None = None) -> Tensor:
    """Return the sum of squares of whole gradients, float64; the same on all ranks of the parameters' meshes.

    Gradients that are partial sums are summed first, in place.

    Args:
        parameters: Parameters, each with a gradient.
        device: Device of the result; None: that of the first parameter.
    """
    by_groups: dict[tuple[tuple[DeviceMesh, int], ...], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        by_groups[_cut_axes(parameter)].append(torch.linalg.vector_norm(_local_gradient(parameter).float()))
    total = torch.zeros((), dtype=torch.float64, device=device or (parameters[0].device if parameters else None))
    for axes, norms in by_groups.items():
        squares = torch.stack(norms).double().square().sum()
        for mesh, axis in axes:
            dist.all_reduce(squares, group=mesh.get_group(axis))
        total += squares
    return total


def _cut_axes(parameter: nn.Parameter) -> tuple[tuple[DeviceMesh, int], ...]:
    """Return the mesh axes along which other ranks hold other parts of a parameter."""
    if not isinstance(parameter, DTensor):
        return ()
    mesh = parameter.device_mesh
    return tuple(
        (mesh, axis) for axis, placement in enumerate(parameter.placements) if not placement.is_replicate()
    )


def _local_gradient(parameter: nn.Parameter) -> Tensor:
    """Return this rank's part of a gradient."""
    gradient = parameter.grad
    assert gradient is not None  # parameters without a gradient are filtered by the caller
    if not isinstance(gradient, DTensor):
        return gradient
    assert isinstance(parameter, DTensor)
    if gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
        parameter.grad = gradient
    return gradient.to_local()
