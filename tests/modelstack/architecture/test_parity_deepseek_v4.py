"""DeepSeek-V4 against transformers."""

from typing import Any

import pytest
import torch
from families import FAMILIES
from parity import (
    assert_cache_agrees,
    assert_same_gradients,
    assert_same_logits,
    difference,
    ours,
    random_ids,
    reference,
)
from torch import nn

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    # 16 index heads: with few, scores are equal and transformers' choice depends on the length.
    "all kinds of layers": {},
    "yarn in compressing layers": {"rope_parameters": YARN, "compress_rope_theta": 500.0, "rope_theta": 50.0},
    "entries for all": {"index_topk": 512},
    "one entry for each": {"index_topk": 1},
    "narrow heads, so entries are gathered": {"head_dim": 8, "partial_rotary_factor": 0.5, "index_topk": 2},
    "other rates": {"compress_rates": {"compressed_sparse_attention": 3, "heavily_compressed_attention": 7}},
    "a tight clamp": {"swiglu_limit": 0.05},
    "two streams": {"hc_mult": 2, "hc_sinkhorn_iters": 3},
}


def deepseek_v4(**keys: Any) -> nn.Module:
    return reference("deepseek_v4", **(FAMILIES["deepseek_v4"] | keys))


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_cached_decoding_equal_transformers(name: str) -> None:
    theirs = deepseek_v4(**CASES[name])
    model = ours(theirs)
    ids = random_ids()
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids)
    assert_same_gradients(theirs, model, ids)


def test_the_released_rates_and_window_equal_transformers_past_the_first_heavy_entry() -> None:
    theirs = deepseek_v4(
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
        sliding_window=128,
        index_topk=16,
        rope_parameters=YARN | {"original_max_position_embeddings": 64},
        num_hidden_layers=3,
        layer_types=["heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention"],
        mlp_layer_types=["hash_moe", "moe", "moe"],
    )
    model = ours(theirs)
    ids = random_ids(batch=1, n_tokens=261)
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids, chunks=(100, 50, 107))
    assert_same_gradients(theirs, model, ids)


@torch.no_grad()
def test_cached_decoding_equals_transformers_own_cache() -> None:
    from transformers import DynamicCache

    theirs = deepseek_v4()
    model, ids = ours(theirs), random_ids(n_tokens=24)
    ours_past, their_past = model.new_cache(), DynamicCache(config=theirs.config)  # pyright: ignore
    for token in ids.split(1, dim=1):
        expected = theirs(token, cache=their_past, use_cache=True).logits
        assert difference(model(token, cache=ours_past).logits_BTV, expected) < 5e-6
