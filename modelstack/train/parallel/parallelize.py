"""Distribution of a model over ranks: the only place that knows the order of the methods.

Tensor parallelism comes first, because it cuts single matrices; then experts; then checkpointing, inside the
compiled functions; FSDP comes last and outermost, so that it gathers the remaining part of a parameter (the order
of torchtitan, arXiv 2410.06511). A pipeline splits the model into stages before and calls this for each stage.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.decide.memory import check_layout
from modelstack.train.parallel.blocks import apply_checkpointing, compile_blocks
from modelstack.train.parallel.mesh import Mesh, ParallelConfig
from modelstack.train.parallel.sharded import shard
from modelstack.train.parallel.tensor import apply_tensor_parallel

Model = TypeVar("Model", bound=nn.Module)


def parallelize(model: Model, mesh: Mesh, parallel: ParallelConfig) -> Model:
    """Distribute a model or a pipeline stage over this rank's groups, in place; return it.

    Build the optimizer afterwards: parameters are replaced by distributed ones.

    Args:
        model: An fp32 model with the whole model's `config`; identical on every rank, or on the meta device.
        mesh: The mesh.
        parallel: Layout and settings.

    Raises:
        UserError: The model does not match the layout, or has a part that cannot be distributed by it.
    """
    config = model.config
    assert isinstance(config, ModelConfig)
    check_layout(config, parallel.layout)
    if parallel.layout.tp > 1:
        apply_tensor_parallel(model, mesh.tp, config)
    if parallel.layout.ep > 1:
        from modelstack.train.parallel.experts import shard_experts

        shard_experts(
            model,
            mesh,
            precision=parallel.precision,
            reshard_after_forward=parallel.reshard_after_forward,
        )
    apply_checkpointing(model, parallel.layout.checkpointing)
    if parallel.compile_blocks:
        compile_blocks(model)
    shard(
        model,
        mesh.fsdp,
        precision=parallel.precision,
        reshard_after_forward=parallel.reshard_after_forward,
    )
    return model
