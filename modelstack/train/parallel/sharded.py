"""Sharded data parallelism: torch's FSDP2, a unit for each block and one for what stands around them.

ZeRO-3 (arXiv 1910.02054) as PyTorch FSDP (2304.11277) does it, parameter by parameter; with replicas of the
sharded model, HSDP. Parameters, gradients and moments are fp32 shards; a unit is gathered in the compute type
before it runs.

- Gradients are summed and not averaged: the loss is divided by the labelled tokens of all ranks already.
- The outermost unit holds embedding, last norm and head and stays gathered from its forward pass to the end of the
  backward pass, since the loss asks for logits after the forward pass, some tokens at a time. As a unit of its own
  the head would be gathered twice and its gradients reduced once for each piece of the batch. At 70B (Llama 3,
  tp 4, bf16) both stages with such a unit hold 0.5 GB of it, and as much again for its gradient.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from modelstack.train.parallel.blocks import decoder_blocks

# Inputs are not cast: a block's are in the compute type already, and FSDP would cast (and copy) the context that
# all layers share, with the rotations in it that are fp32 on purpose.
POLICIES = {
    "fp32": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
    "bf16": MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    ),
}


def shard(model: nn.Module, mesh: DeviceMesh, *, precision: str, reshard_after_forward: bool) -> None:
    """Shard a model, or a pipeline's stage, in place.

    Args:
        model: Parts that were sharded before (experts, on a mesh of their own) stay as they are.
        mesh: One axis (FSDP), or replicas and shards (HSDP).
        precision: "fp32" or "bf16": what blocks compute in.
        reshard_after_forward: Whether a block is freed after its forward pass and gathered again.
    """
    policy = POLICIES[precision]
    for block in decoder_blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
