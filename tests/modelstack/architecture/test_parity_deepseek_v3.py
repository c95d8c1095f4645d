"""DeepSeek-V3 against transformers; sizes against what was published."""

from typing import Any

import pytest
import torch
from parity import assert_cache_agrees, assert_same_gradients, assert_same_logits, ours, random_ids, reference

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf, published, to_hf
from modelstack.errors import UserError

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
CASES: dict[str, dict[str, Any]] = {
    "one dense layer, one of experts in two groups": {},
    "no dense layer": {"first_k_dense_replace": 0},
    "dense layers only": {"first_k_dense_replace": 2},
    "without query rank": {"q_lora_rank": None},
    "one group": {"n_group": 1, "topk_group": 1},
    "two of four groups": {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    "weights not normalised": {"norm_topk_prob": False, "routed_scaling_factor": 1.5},
    "two shared experts": {"n_shared_experts": 2},
    "yarn": {"rope_parameters": YARN},
    "yarn without query rank": {"rope_parameters": YARN, "q_lora_rank": None},
    "yarn with two mscales": {"rope_parameters": YARN | {"mscale": 0.7}},
    "half-split rotation": {"rope_interleave": False},
    "biases": {"attention_bias": True},
    "large epsilon, which the inner norms do not follow": {"rms_norm_eps": 1e-2},
    "wide values and a wide latent": {"v_head_dim": 24, "kv_lora_rank": 40},
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_cached_decoding_equal_transformers(name: str) -> None:
    theirs = reference("deepseek_v3", **(TINY | CASES[name]))
    model = ours(theirs)
    ids = random_ids()
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids)
    assert_same_gradients(theirs, model, ids)


@pytest.mark.parametrize("name", CASES)
def test_the_config_survives_the_way_to_transformers_and_back(name: str) -> None:
    from transformers import AutoConfig

    config = ours(reference("deepseek_v3", **(TINY | CASES[name]))).config
    json = to_hf(config)
    assert from_hf(json) == config
    model_type = json.pop("model_type")
    theirs = AutoConfig.for_model(model_type, **json)
    assert from_hf(theirs.to_dict()) == config


def test_the_published_size_has_the_published_parameters() -> None:
    """As the release's README_WEIGHTS has them: 671B, and 11.5B in the layer of the module ahead."""
    config = published("deepseek-v3")
    with torch.device("meta"):
        model = CausalLM(config)
    assert model.mtp is not None
    n_ahead, n_all = (sum(p.numel() for p in part.parameters()) for part in (model.mtp, model))
    n_layer = sum(p.numel() for p in model.model.layers[60].parameters())
    assert round((n_all - n_ahead) / 1e9) == 671
    assert round(n_layer / 1e9, 1) == 11.5
    assert n_ahead == n_layer + 2 * 7168**2 + 3 * 7168
    assert to_hf(config)["num_nextn_predict_layers"] == 1


def test_the_published_size_caches_576_numbers_a_token_and_layer() -> None:
    config = published("deepseek-v3")
    assert config.kv_lora_rank and config.qk_rope_head_dim
    assert config.kv_lora_rank + config.qk_rope_head_dim == 576
    assert config.attention_scale == 192**-0.5


def test_fewer_kv_heads_than_heads_are_refused() -> None:
    with pytest.raises(UserError, match="num_key_value_heads 2 must equal num_attention_heads 4"):
        from_hf(_json() | {"num_key_value_heads": 2})


def test_missing_sizes_are_named() -> None:
    json = _json()
    del json["kv_lora_rank"], json["n_routed_experts"]
    with pytest.raises(UserError, match="no kv_lora_rank, n_routed_experts"):
        from_hf(json)


def test_experts_between_dense_layers_cannot_be_told_to_transformers() -> None:
    config = from_hf(_json()).with_(mlp_layer_types=("moe", "dense"))
    with pytest.raises(UserError, match="mlp_layer_types"):
        to_hf(config)


def _json() -> dict[str, Any]:
    sizes = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {"model_type": "deepseek_v3", "intermediate_size": 128} | sizes | TINY
