"""Expert parallelism: each rank holds some experts of every MoE layer; tokens are sent to their experts.

GShard (arXiv 2006.16668), with ranks taken from the shard axis as in DeepSpeed-MoE (2201.05596) and torchtitan:
the ranks of an `ep` group have different batches, so each sends its tokens to the owners of their experts and
receives the results (two all-to-alls per layer, two more in the backward pass). An owner computes the tokens of
all ranks of the group, so its experts' gradients are complete without a sum over the group.

The dispatch is that of `moe.experts.mix_by_expert` on one device, with communication in the middle. Rows sorted by
expert are also sorted by owner, because owners hold consecutive experts. The numbers of rows are exchanged first,
so messages have exactly the required length (no capacity, no dropped tokens). Received rows are ordered by sender
and then by expert; the experts' own forward pass sorts them, and each row's result returns to its position.
Nothing is summed on the way, so the result equals that of one device for any grouping of ranks.

Parameters become DTensors, Shard(0) over `ep` and, by FSDP, Shard(1) over the ranks that hold the same experts.
State dicts keep the whole model's names and shapes, so checkpoints can be resumed with another layout.

Letters: N tokens of this rank, S = N * k rows, D model width, E experts, R ranks of the group, e = E / R experts
of a rank, P rows that a rank received.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.func import functional_call

from modelstack.architecture.moe.experts import mix_by_expert
from modelstack.architecture.moe.layer import MoE
from modelstack.errors import UserError
from modelstack.train.parallel.mesh import Mesh
from modelstack.train.parallel.sharded import POLICIES

FSDP_AXIS = 1
"""Axis of experts' parameters that FSDP cuts. Axis 0 may have fewer experts than FSDP has ranks."""


def shard_experts(model: nn.Module, mesh: Mesh, *, precision: str, reshard_after_forward: bool) -> None:
    """Spread the experts of every MoE layer over `mesh.ep`, in place; other modules are unchanged.

    Args:
        model: A model or a pipeline stage, before FSDP; identical on every rank, or on the meta device.
        mesh: The mesh, with ep > 1. Every rank must call this, even without MoE layers.
        precision: Precision of the experts' computation, "fp32" or "bf16".
        reshard_after_forward: Whether gathered experts are freed after their forward pass.

    Raises:
        UserError: The experts are not divisible by the group, or their parameters by the ranks with the same
            experts.
    """
    ep, fsdp = mesh.ep, mesh.expert_fsdp
    for moe in [module for module in model.modules() if isinstance(module, MoE)]:
        spread(moe.experts, ep, mesh.layout.shard // mesh.layout.ep)
        fully_shard(
            moe.experts,
            mesh=fsdp,
            mp_policy=POLICIES[precision],
            reshard_after_forward=reshard_after_forward,
            shard_placement_fn=lambda parameter: Shard(FSDP_AXIS),
        )


def spread(experts: nn.Module, ep: DeviceMesh, n_shards: int = 1) -> None:
    """Keep each rank's share of one layer's experts, and send tokens to their experts' ranks.

    Args:
        experts: `PackedExperts` or `InterleavedExperts`; changed in place.
        ep: The group, a mesh with one axis.
        n_shards: Number of ranks that will shard the remaining parameters.

    Raises:
        UserError: A size is not divisible.
    """
    layer = copy.deepcopy(experts).to("meta")  # the layer's computation, called with this rank's weights
    for name, parameter in list(experts.named_parameters(recurse=False)):
        if parameter.shape[0] % ep.size() or parameter.shape[FSDP_AXIS] % n_shards:
            raise UserError(
                f"experts' {name} {tuple(parameter.shape)} cannot be cut into {ep.size()} along its experts and "
                f"{n_shards} along axis {FSDP_AXIS}: use divisors of these sizes for ep and shard / ep"
            )
        # Every rank has the same whole parameter, so nothing is sent.
        cut = distribute_tensor(parameter.detach(), ep, [Shard(0)], src_data_rank=None)
        experts.register_parameter(name, nn.Parameter(cut, requires_grad=parameter.requires_grad))
    experts.forward = partial(_forward, experts, layer, ep)


def _forward(
    experts: nn.Module, layer: nn.Module, ep: DeviceMesh, x_ND: Tensor, experts_Nk: Tensor, weights_Nk: Tensor
) -> Tensor:
    """Return the weighted sum of each token's experts, [N, D], for experts on any rank."""
    own = {name: _local(parameter) for name, parameter in experts.named_parameters(recurse=False)}
    n_own = len(next(iter(own.values())))
    serve = partial(_serve_elsewhere, partial(_serve, layer, own), ep.get_group(), n_own)
    # Clone, because in-place changes of a returned view would lose FSDP's hook, of which FSDP warns.
    return mix_by_expert(serve, n_own * ep.size(), x_ND, experts_Nk, weights_Nk).clone()


def _serve_elsewhere(
    serve: Callable[[Tensor, Tensor], Tensor],
    group: dist.ProcessGroup,
    n_own: int,
    x_SD: Tensor,
    ends_E: Tensor,
    expert_S: Tensor,
) -> Tensor:
    """Return the output of each row's expert, [S, D]: rows are sent to the experts' owners, results come back."""
    sent_Re = ends_E.diff(prepend=ends_E.new_zeros(1)).view(-1, n_own)
    received_Re = torch.empty_like(sent_Re)
    dist.all_to_all_single(received_Re, sent_Re, group=group)
    n_sent, n_received = sent_Re.sum(1).tolist(), received_Re.sum(1).tolist()
    x_PD = all_to_all_single_autograd(x_SD, n_received, n_sent, group)
    own_of_Re = torch.arange(n_own, device=x_SD.device).repeat(len(n_sent))
    y_PD = serve(x_PD, own_of_Re.repeat_interleave(received_Re.flatten()))
    return all_to_all_single_autograd(y_PD, n_sent, n_received, group)


def _serve(layer: nn.Module, own: dict[str, Tensor], x_PD: Tensor, expert_P: Tensor) -> Tensor:
    """Return the outputs of rows from all ranks of the group, each computed by one of this rank's experts."""
    if not len(x_PD):
        # The grouped matmul has no backward pass for zero rows, but experts without tokens need a gradient of 0.
        # So a row of zeros is computed and its result dropped.
        return _serve(layer, own, x_PD.new_zeros(1, x_PD.shape[1]) + x_PD.sum(), expert_P.new_zeros(1))[:0]
    weights_P1 = x_PD.new_ones(len(x_PD), 1)
    return functional_call(layer, own, (x_PD, expert_P.unsqueeze(1), weights_P1))


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
