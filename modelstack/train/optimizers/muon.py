"""Muon's update: the orthogonalised momentum of a matrix, scaled to the size of AdamW's update.

Keller Jordan et al., 2024; in DeepSeek-V4's form (arXiv 2606.19348): M <- mu M + G; O = NS(mu M + G); W <- W (1 -
lr wd) - lr * rms * sqrt(max(n, m)) * O. An orthogonal [n, m] matrix has a root mean square of 1 / sqrt(max(n, m)),
so that of the update is `rms` for every shape. Matrices of one shape are orthogonalised in one batch, across
parameters and experts.

Sharded parameters (FSDP2, tensor parallel) have sharded momentum. It is gathered for the orthogonalisation, a few
parameters at a time, and every rank computes the whole matrix. This is correct for any sharding but not the
fastest.

Letters: N matrices of one shape, n rows, m columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from modelstack.train.optimizers.matrices import Fusion, join, split
from modelstack.train.optimizers.newton_schulz import Coefficients, orthogonalised

MAX_ELEMENTS = 2**27
"""Maximum elements gathered and orthogonalised at once: 0.5 GB in fp32. A single parameter may exceed it."""


def muon_updates(
    momenta: Sequence[Tensor],
    fusions: Sequence[Fusion | None],
    schedule: Sequence[Coefficients],
    dtype: torch.dtype,
    rms: float,
) -> list[Tensor]:
    """Return the update of each parameter before the learning rate: whole, [n, m] or [N, n, m].

    Args:
        momenta: Whole momenta, of any shapes.
        fusions: Fusion of each parameter.
        schedule: Coefficients of the orthogonalisation.
        dtype: Type of its products and of the results.
        rms: Root mean square of the update.
    """
    pieces = [
        split(momentum.flatten(0, -3) if momentum.ndim > 2 else momentum.unsqueeze(0), fusion)
        for momentum, fusion in zip(momenta, fusions, strict=True)
    ]
    by_shape: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for index, of_one in enumerate(pieces):
        for place, piece in enumerate(of_one):
            by_shape[piece.shape[-2], piece.shape[-1]].append((index, place))
    for (n, m), members in by_shape.items():
        batch = torch.cat([pieces[index][place] for index, place in members])
        counts = [len(pieces[index][place]) for index, place in members]
        done = orthogonalised(batch, schedule, dtype) * (rms * max(n, m) ** 0.5)
        for (index, place), part in zip(members, done.split(counts), strict=True):
            pieces[index][place] = part
    joined = (join(of_one, fusion) for of_one, fusion in zip(pieces, fusions, strict=True))
    return [update.view_as(momentum) for update, momentum in zip(joined, momenta, strict=True)]


def portions(parameters: Sequence[Tensor], max_elements: int = MAX_ELEMENTS) -> Iterator[list[int]]:
    """Yield indices of parameters to process together: equal shapes are adjacent, so that they share a batch.

    The order depends only on the shapes, so ranks that hold shards of the same model gather in the same order.
    """
    taken: list[int] = []
    n_taken = 0
    for index in sorted(range(len(parameters)), key=lambda index: tuple(parameters[index].shape)):
        n = parameters[index].numel()
        if taken and n_taken + n > max_elements:
            yield taken
            taken, n_taken = [], 0
        taken.append(index)
        n_taken += n
    if taken:
        yield taken


def gathered(x: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a tensor that every rank holds whole: a local tensor, without communication."""
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=like.placements).to_local()
