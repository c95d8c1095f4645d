"""Dense families against transformers."""

import pytest
from parity import assert_cache_agrees, assert_same_gradients, assert_same_logits, ours, random_ids, reference

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES = {
    "llama": ("llama", {}),
    "llama with all heads": ("llama", {"num_key_value_heads": 4}),
    "llama with one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with llama 3 scaling": ("llama", {"rope_parameters": LLAMA3_SCALING}),
    "llama with yarn": ("llama", {"rope_parameters": YARN}),
    "llama with linear scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 with a head of its own and one kv head": ("qwen2", {"num_key_value_heads": 1}),
    "qwen2 with windows behind its first layers": (
        "qwen2",
        {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen2 with windows that it does not use": (
        "qwen2",
        {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3 with a window": (
        "qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 16,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3 with its pattern, a soft-cap and another query scale": (
        "gemma3_text",
        {
            "num_hidden_layers": 6,
            "head_dim": 16,
            "sliding_window": 5,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 1.5,
        },
    ),
    "olmo3": (
        "olmo3",
        {
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "rope_parameters": {
                "full_attention": {**YARN, "attention_factor": 1.2},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "olmo3 with all heads": ("olmo3", {"num_key_value_heads": 4, "sliding_window": 16}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "smollm3 with windows where it does not rotate": (
        "smollm3",
        {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 6, "no_rope_layers": [0, 1, 1, 0]},
    ),
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
