"""Qwen3-MoE and gpt-oss against transformers; sizes against what was published."""

from typing import Any

import pytest
import torch
from parity import assert_cache_agrees, assert_same_gradients, assert_same_logits, ours, random_ids, reference

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf, published, to_hf
from modelstack.errors import UserError

QWEN: dict[str, Any] = {
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
GPT: dict[str, Any] = {
    "head_dim": 16,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "intermediate_size": 32,
    "sliding_window": 16,
    "swiglu_limit": 0.1,  # low, so that toy activations meet it
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "truncate": False,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-moe": ("qwen3_moe", QWEN),
    "qwen3-moe, weights not normalised": ("qwen3_moe", QWEN | {"norm_topk_prob": False}),
    "qwen3-moe, one expert a token": ("qwen3_moe", QWEN | {"num_experts_per_tok": 1, "norm_topk_prob": False}),
    "qwen3-moe, all experts": ("qwen3_moe", QWEN | {"num_experts_per_tok": 8}),
    "qwen3-moe, first layer dense": ("qwen3_moe", QWEN | {"mlp_only_layers": [0]}),
    "qwen3-moe, every second layer sparse": ("qwen3_moe", QWEN | {"decoder_sparse_step": 2}),
    "qwen3-moe with a window": ("qwen3_moe", QWEN | {"use_sliding_window": True, "sliding_window": 8}),
    "qwen3-moe, head width from the model's": ("qwen3_moe", {k: v for k, v in QWEN.items() if k != "head_dim"}),
    "gpt-oss": ("gpt_oss", GPT),
    "gpt-oss with a yarn that toys feel": ("gpt_oss", GPT | {"rope_parameters": YARN}),
    "gpt-oss without attention biases": ("gpt_oss", GPT | {"attention_bias": False}),
    "gpt-oss, all layers full": ("gpt_oss", GPT | {"layer_types": ["full_attention", "full_attention"]}),
    "gpt-oss, another slope": ("gpt_oss", GPT | {"swiglu_alpha": 1.3, "num_experts_per_tok": 4}),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_cached_decoding_equal_transformers(name: str) -> None:
    model_type, keys = CASES[name]
    theirs = reference(model_type, **keys)
    model = ours(theirs)
    ids = random_ids()
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids)
    assert_same_gradients(theirs, model, ids)


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_the_written_config_as_its_own(name: str) -> None:
    from transformers import AutoConfig

    model_type, keys = CASES[name]
    theirs = AutoConfig.for_model(model_type, vocab_size=128, hidden_size=64, num_hidden_layers=2, **keys)
    config = from_hf(theirs.to_dict())
    json = to_hf(config)
    again = AutoConfig.for_model(**json)
    assert from_hf(again.to_dict()) == config
    assert from_hf(json) == config


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("qwen3-30b-a3b", 30_532_122_624),  # "30.5 billion": Qwen3's report
        ("gpt-oss-20b", 20_914_757_184),  # "20.91 billion": gpt-oss's model card
        ("gpt-oss-120b", 116_829_156_672),  # "116.83 billion"
    ],
)
def test_published_sizes_have_the_published_parameters(name: str, n_parameters: int) -> None:
    with torch.device("meta"):
        model = CausalLM(published(name))
    assert sum(p.numel() for p in model.parameters()) == n_parameters


def test_what_gpt_oss_does_not_say_is_what_transformers_takes() -> None:
    """Its 120b is also transformers' default, so the published keys can be left out and compared."""
    from transformers import AutoConfig

    theirs = from_hf(AutoConfig.for_model("gpt_oss", eos_token_id=200002, pad_token_id=199999).to_dict())
    assert published("gpt-oss-120b") == theirs
    silent = {"rope_scaling": None, "rope_theta": None, "swiglu_limit": 7.0, "rms_norm_eps": None}
    assert published("gpt-oss-120b", **silent) == theirs


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "gpt-oss-20b", "gpt-oss-120b"])
def test_published_configs_survive_the_way_there_and_back(name: str) -> None:
    config = published(name)
    assert from_hf(to_hf(config)) == config


def test_a_config_without_experts_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="no num_experts, moe_intermediate_size: every qwen3_moe model"):
        from_hf({"model_type": "qwen3_moe", "num_experts_per_tok": 8})
    with pytest.raises(UserError, match="num_local_experts or intermediate_size: every gpt_oss model"):
        from_hf(
            {
                "model_type": "gpt_oss",
                "vocab_size": 8,
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
            }
        )
