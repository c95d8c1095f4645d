"""DeepSeek-V3 against transformers."""

from typing import Any

import pytest
from parity import assert_cache_agrees, assert_same_gradients, assert_same_logits, ours, random_ids, reference

TINY: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_nextn_predict_layers": 0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
DENSE = {"first_k_dense_replace": 2}
CASES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "dense without query rank": DENSE | {"q_lora_rank": None},
    "dense with yarn": DENSE | {"rope_parameters": YARN},
    "dense with two mscales": DENSE | {"rope_parameters": YARN | {"mscale": 0.7}},
    "dense half-split": DENSE | {"rope_interleave": False},
    "dense with biases": DENSE | {"attention_bias": True},
    "dense with a large epsilon": DENSE | {"rms_norm_eps": 1e-2},
    "dense with a wide value and a wide latent": DENSE | {"v_head_dim": 24, "kv_lora_rank": 40},
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_cached_decoding_equal_transformers(name: str) -> None:
    theirs = reference("deepseek_v3", **(TINY | CASES[name]))
    model = ours(theirs)
    ids = random_ids()
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids)
    assert_same_gradients(theirs, model, ids)
