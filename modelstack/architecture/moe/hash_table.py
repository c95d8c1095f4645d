"""Tables for hash routing: k distinct experts for each token id, with even load under the tokens' frequencies.

DeepSeek-V4 mentions a predefined hash of the token id without details (arXiv 2606.19348, 2.1). A plain hash gives
the expert of "the" many times its share. Roller et al., 2106.04426, therefore assign tokens in order of falling
frequency to the emptiest bucket. Here each token is assigned to the k experts with the least load so far, with
random ties; the many rare tokens even out the remaining differences. An expert's load is at least that of its most
frequent token: if one token is more than k / E of the text, its experts stay above their share.

Letters: V vocabulary, E experts, k experts per token.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor, nn

from modelstack.architecture.moe.hash_router import HashRouter
from modelstack.architecture.moe.layer import MoE
from modelstack.errors import UserError

UNSEEN_SHARE = 0.5
"""Weight of a token that the counted text lacks, relative to the rarest token in it, so that all are spread."""


def hash_table(frequency_V: Sequence[float], n_experts: int, n_chosen: int, seed: int) -> Tensor:
    """Return the experts of each token id, int64 [V, k]; the same in every process.

    Args:
        frequency_V: Frequency of each token id, in any unit.
        n_experts: E.
        n_chosen: k.
        seed: Seed for ties; use a different seed for each layer.

    Raises:
        UserError: A frequency is negative, or k is more than E.
    """
    if not 0 < n_chosen <= n_experts:
        raise UserError(f"n_chosen {n_chosen} must lie in 1..n_experts {n_experts}")
    if min(frequency_V) < 0:
        raise UserError(f"frequency_V contains {min(frequency_V)}; frequencies must be at least 0")
    rarest = min((f for f in frequency_V if f > 0), default=1.0)
    weight = [f or UNSEEN_SHARE * rarest for f in frequency_V]
    lot = Random(seed)
    by_load = [(0.0, lot.random(), expert) for expert in range(n_experts)]
    heapq.heapify(by_load)
    table = [[0]] * len(weight)
    for token in sorted(range(len(weight)), key=lambda token: (-weight[token], token)):
        least = [heapq.heappop(by_load) for _ in range(n_chosen)]
        table[token] = [expert for _, _, expert in least]
        for load, _, expert in least:
            heapq.heappush(by_load, (load + weight[token], lot.random(), expert))
    return torch.tensor(table)


def fill_hash_tables(model: nn.Module, frequency_V: Sequence[float], seed: int) -> None:
    """Fill the table of each hash-routed layer of a model, drawn with `seed` + its layer number.

    Raises:
        UserError: The model has no such layer, or the number of frequencies differs from the vocabulary.
    """
    routers = {
        module.layer: module.routing_module
        for module in model.modules()
        if isinstance(module, MoE) and isinstance(module.routing_module, HashRouter)
    }
    if not routers:
        raise UserError("no layer of the model routes by a hash; set a layer of mlp_layer_types to hash_moe")
    for layer, router in routers.items():
        if len(frequency_V) != len(router.tid2eid):
            raise UserError(f"{len(frequency_V)} frequencies for a vocabulary of {len(router.tid2eid)}")
        router.tid2eid.copy_(hash_table(frequency_V, router.n_experts, router.n_chosen, seed + layer))
