"""Model of a training over several processes: sharded by FSDP2 during training, whole again for its stage."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from modelstack.posttrain.starting_point import load_start
from modelstack.posttrain.training import Training
from modelstack.train.parallel.mesh import Mesh, ParallelConfig
from modelstack.train.parallel.parallelize import parallelize


def shard(training: Training[Any], mesh: Mesh) -> None:
    """Shard the model of a training, in place; a method that samples also keeps the whole base model."""
    recipe, whole = training.resolved.recipe, training.base.model
    # Adapters are fp32 on a base that already has the compute type. In full training all weights are fp32 masters.
    is_cast = training.resolved.lora is None and recipe.precision == "bf16"
    model = copy.deepcopy(whole) if training.samples else whole
    parallelize(model, mesh, ParallelConfig(layout=mesh.layout, precision="bf16" if is_cast else "fp32"))
    if training.samples and is_cast:
        whole.to(torch.bfloat16)
    training.model = model


def unshard(training: Training[Any]) -> None:
    """Copy the trained weights into a whole model in the first process; every process calls this."""
    resolved, job = training.resolved, training.job
    sharded = training.model
    if not training.samples and job.processes.is_first:
        training.base = load_start(resolved.recipe, resolved.lora, job.start)
        if resolved.lora is None and resolved.recipe.precision == "bf16":
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
