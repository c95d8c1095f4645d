"""DeepSeek-V4 against transformers."""

from typing import Any

import pytest
import torch
from parity import assert_cache_agrees, assert_same_gradients, assert_same_logits, ours, random_ids, reference
from torch import nn

TINY: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "q_lora_rank": 32,
    "partial_rotary_factor": 0.25,
    "moe_intermediate_size": 32,
    "intermediate_size": 32,  # transformers' other name for it
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "o_groups": 2,
    "o_lora_rank": 16,
    "index_n_heads": 16,  # with fewer, scores are equal and transformers' choice depends on the length
    "index_head_dim": 16,
    "index_topk": 4,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    ],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "num_nextn_predict_layers": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    "all kinds of layers": {},
    "yarn in compressing layers": {"rope_parameters": YARN},
    "a base of one's own in compressing layers": {"compress_rope_theta": 500.0, "rope_theta": 50.0},
    "entries for all": {"index_topk": 512},
    "one entry for each": {"index_topk": 1},
    "wide entries": {"head_dim": 8, "partial_rotary_factor": 0.5, "index_topk": 2},
    "other rates": {"compress_rates": {"compressed_sparse_attention": 3, "heavily_compressed_attention": 7}},
    "a tight clamp": {"swiglu_limit": 0.05},
    "two streams": {"hc_mult": 2, "hc_sinkhorn_iters": 3},
}


def deepseek_v4(**keys: Any) -> nn.Module:
    theirs = reference("deepseek_v4", **(TINY | keys))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("position_bias"):  # a matrix of zeros, which doubling leaves
                parameter.normal_(std=0.5)
    return theirs


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_cached_decoding_equal_transformers(name: str) -> None:
    theirs = deepseek_v4(**CASES[name])
    model = ours(theirs)
    ids = random_ids()
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids)
    assert_same_gradients(theirs, model, ids)
