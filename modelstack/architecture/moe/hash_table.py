"""Tables for hash routing: k distinct experts for each token id, their load even under the tokens' frequencies.

DeepSeek-V4 names a predefined hash of the token id and no more (arXiv 2606.19348, 2.1). Roller et al., 2106.04426,
deal tokens from the most frequent down to the emptiest bucket, since a plain hash leaves the expert of "the" with
many times its share; here each goes to the k experts with the least load so far, ties by lot, and the mass of rare
tokens evens out what is left. An expert cannot get less than its most frequent token: where one token is more than
k / E of the text, its experts stay above their share.

Letters: V vocabulary, E experts, k experts a token.
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
"""A token that the counted text lacks weighs this share of the rarest that it has, so that all spread."""


def hash_table(frequency_V: Sequence[float], n_experts: int, n_chosen: int, seed: int) -> Tensor:
    """Return the experts of each token id, int64 [V, k]; the same in every process.

    Args:
        frequency_V: How often each token id occurs, in any unit.
        n_experts: E.
        n_chosen: k.
        seed: Decides ties; layers want seeds of their own.

    Raises:
        UserError: A frequency is negative, or k is more than E.
    """
    if not 0 < n_chosen <= n_experts:
        raise UserError(f"n_chosen {n_chosen} must lie in 1..n_experts {n_experts}")
    if min(frequency_V) < 0:
        raise UserError(f"frequency_V holds {min(frequency_V)}: counts of tokens are at least 0")
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
    """Give each hash-routed layer of a model a table of its own, drawn with `seed` + its layer.

    Raises:
        UserError: The model has no such layer, or the frequencies are not one for each token id.
    """
    routers = {
        module.layer: module.routing_module
        for module in model.modules()
        if isinstance(module, MoE) and isinstance(module.routing_module, HashRouter)
    }
    if not routers:
        raise UserError("no layer of the model routes by a hash: give mlp_layer_types a hash_moe")
    for layer, router in routers.items():
        if len(frequency_V) != len(router.tid2eid):
            raise UserError(f"{len(frequency_V)} frequencies for a vocabulary of {len(router.tid2eid)}")
        router.tid2eid.copy_(hash_table(frequency_V, router.n_experts, router.n_chosen, seed + layer))
