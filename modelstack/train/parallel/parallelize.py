"""From a model to this rank's share of it: the one place that knows the order of the parts.

Tensor parallelism first, since it cuts single matrices; then experts; then checkpointing, inside of what is
compiled; FSDP last and outermost, so that what it gathers is what is left of a parameter (the order of torchtitan,
arXiv 2410.06511). A pipeline cuts the model into stages before and calls this for each.
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
    """Spread a model, or a pipeline's stage of one, over this rank's groups; in place. Returns the model.

    Build the optimizer after it: parameters become distributed ones.

    Args:
        model: fp32, with the whole model's `config`; the same on every rank, or on the meta device.
        mesh: The grid.
        parallel: How.

    Raises:
        UserError: The model does not fit the layout, or has a part that cannot be spread so.
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
