"""Muon's update: the momentum of a matrix, orthogonalised, at a size like AdamW's.

Keller Jordan et al., 2024; as DeepSeek-V4 runs it (arXiv 2606.19348): M <- mu M + G; O = NS(mu M + G);
W <- W (1 - lr wd) - lr * rms * sqrt(max(n, m)) * O. An orthogonal [n, m] has a root mean square of
1 / sqrt(max(n, m)), so the update's is `rms`, whatever the shape. Matrices of one shape go through Newton-Schulz
as one batch, over parameters and experts alike.

Sharded parameters (FSDP2, tensor parallel) keep their momentum sharded; it is gathered for the orthogonalisation,
some parameters at a time, and every rank computes the whole: right for any sharding, and not the fastest.

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
"""Gathered and orthogonalised at once: 0.5 GB in fp32. One parameter alone may be more."""


def muon_updates(
    momenta: Sequence[Tensor],
    fusions: Sequence[Fusion | None],
    schedule: Sequence[Coefficients],
    dtype: torch.dtype,
    rms: float,
) -> list[Tensor]:
    """Return what the learning rate multiplies, for each parameter: whole, [n, m] or [N, n, m].

    Args:
        momenta: Whole, of any shapes.
        fusions: What each holds.
        schedule: Of the orthogonalisation.
        dtype: Of its products; the results are in it too.
        rms: Size of the update.
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
    """Yield indices of parameters to treat together: equal shapes next to each other, so that they share a batch.

    The order depends on the shapes alone: ranks that hold shards of the same model gather in the same order.
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
    """Return this rank's part of a tensor that every rank has whole: a local tensor, no communication."""
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=like.placements).to_local()
