"""Sharded data parallelism with torch's FSDP2: a unit for each block and one for all other modules.

ZeRO-3 (arXiv 1910.02054) as in PyTorch FSDP (2304.11277), parameter by parameter; HSDP with replicas of the
sharded model. Parameters, gradients and moments are fp32 shards. A unit is gathered in the compute type before it
runs.

- Gradients are summed and not averaged, because the loss is already divided by the labelled tokens of all ranks.
- The outermost unit holds embedding, last norm and head. It stays gathered from its forward pass to the end of the
  backward pass, because the loss computes logits after the forward pass, in chunks of tokens. As a separate unit
  the head would be gathered twice and its gradients reduced once per chunk. At 70B (Llama 3, tp 4, bf16) both
  stages with such a unit hold 0.5 GB of it, and as much again for its gradient.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from modelstack.train.parallel.blocks import decoder_blocks

# Inputs are not cast: a block's inputs already have the compute type, and FSDP would cast (and copy) the context
# that all layers share, including its rotations, which must stay fp32.
POLICIES = {
    "fp32": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
    "bf16": MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    ),
}


def shard(model: nn.Module, mesh: DeviceMesh, *, precision: str, reshard_after_forward: bool) -> None:
    """Shard a model or a pipeline stage, in place.

    Args:
        model: The model; parts that are already sharded (experts, on their own mesh) are unchanged.
        mesh: One axis (FSDP), or replicas and shards (HSDP).
        precision: Precision of the blocks, "fp32" or "bf16".
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
