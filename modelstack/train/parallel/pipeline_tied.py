"""A head tied to the embedding in a pipeline: the last stage has a copy, which must stay equal.

On different ranks both are parameters. After a step's passes the two ranks exchange gradients, and both compute
the same sum bit for bit, so identical optimizers update them identically (Megatron-LM, arXiv 2104.04473). On one
rank (V placement) the optimizer has only the embedding: the copy's gradient is added to the embedding's, and the
copy gets the embedding's values before the next step. Sharing one tensor there is not possible with FSDP, which
shards each stage separately.

Letters: V vocabulary, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from modelstack.train.parallel.mesh import Mesh
from modelstack.train.parallel.pipeline import Stage, tied_on_one_rank


def refresh_copy(stages: Sequence[Stage]) -> None:
    """Copy the embedding's values to a copy on the same rank; call before a step's passes."""
    if tied_on_one_rank(stages):
        with torch.no_grad():
            _local(stages[-1].embedding_VD).copy_(_local(stages[0].embedding_VD))


def add_gradients_of_copies(stages: Sequence[Stage], mesh: Mesh) -> None:
    """Sum the gradients of the embedding and its copy; call after a step's passes.

    On one rank the embedding gets the sum; on two ranks both get it.
    """
    first, last = stages[0], stages[-1]
    if not first.config.tie_word_embeddings:
        return
    if tied_on_one_rank(stages):
        local_gradient(first.embedding_VD).add_(local_gradient(last.embedding_VD))
        last.embedding_VD.grad = None
    elif first.is_first:
        _exchange(local_gradient(first.embedding_VD), mesh, peer=mesh.layout.pp - 1)
    elif last.is_last:
        _exchange(local_gradient(last.embedding_VD), mesh, peer=0)


def moved_copy(stages: Sequence[Stage]) -> nn.Parameter | None:
    """Return this rank's copy of the embedding if the optimizer updates it; the norm must not count it again."""
    last = stages[-1]
    is_copy = last.is_last and last.config.tie_word_embeddings and not tied_on_one_rank(stages)
    return last.embedding_VD if is_copy else None


def local_gradient(parameter: nn.Parameter) -> Tensor:
    """Return this rank's part of a gradient, which must exist."""
    assert parameter.grad is not None  # embedding and head have a gradient in every step
    return _local(parameter.grad)


def _exchange(own_VD: Tensor, mesh: Mesh, peer: int) -> None:
    """Add the peer's gradient to this rank's."""
    group, received_VD = mesh.pp.get_group(), torch.empty_like(own_VD)
    messages = [
        dist.P2POp(dist.isend, own_VD.clone(), group=group, group_peer=peer),
        dist.P2POp(dist.irecv, received_VD, group=group, group_peer=peer),
    ]
    for work in dist.batch_isend_irecv(messages):
        work.wait()
    own_VD.add_(received_VD)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
