"""End of a training over several processes: the sharded weights become a whole model for the stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from modelstack.posttrain.starting_point import computes_in_bf16, load_start
from modelstack.posttrain.training import Training


def unshard(training: Training[Any]) -> None:
    """Copy the trained weights into a whole model in the first process; every process calls this.

    The first process therefore needs memory for the whole model at the end.
    """
    resolved, job = training.resolved, training.job
    sharded = training.model
    if sharded is training.base.model and job.processes.is_first:
        training.base = load_start(resolved.recipe, resolved.lora, job.start)
        if computes_in_bf16(resolved.recipe, resolved.lora):
            training.base.model.to(torch.bfloat16)
    copy_trained(sharded, training.base.model if job.processes.is_first else None)
    training.model = training.base.model


@torch.no_grad()
def copy_trained(sharded: nn.Module, whole: nn.Module | None) -> None:
    """Gather the trained weights of a sharded model and copy them into a whole one; every process calls this.

    Args:
        sharded: Model sharded by FSDP2.
        whole: The same model unsharded, of any number type; None: this process only takes part in the gathering.
    """
    targets = {} if whole is None else dict(whole.named_parameters())
    trained = {name for name, parameter in sharded.named_parameters() if parameter.requires_grad}
    for name, value in sharded.state_dict().items():  # a state dict holds shards even while weights are gathered
        if name in trained:
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if name in targets:
                targets[name].copy_(full)
