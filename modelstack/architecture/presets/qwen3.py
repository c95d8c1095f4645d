"""Qwen3: llama with a norm on each query and key head and no biases (arXiv 2505.09388)."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import (
    Json,
    Preset,
    read_rope,
    read_window_layers,
    same_keys,
    write_rope,
    write_window_layers,
)


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`."""
    return build(qwen3_values(json) | {"mlp_layer_types": ("dense",) * json["num_hidden_layers"]})


def qwen3_values(json: Json) -> Json:
    """Return the config values that dense and sparse models of the family share."""
    same = same_keys(json)
    return (
        same
        | read_window_layers(json, max_window_layers=28)
        | {
            "model_type": "qwen3",
            "intermediate_size": json["intermediate_size"],
            "num_key_value_heads": json.get("num_key_value_heads") or same["num_attention_heads"],
            "head_dim": json.get("head_dim") or 128,
            "hidden_act": json.get("hidden_act", "silu"),
            "attention_bias": bool(json.get("attention_bias")),
            "attention_out_bias": bool(json.get("attention_bias")),
            "qk_norm": "head",
            "rope_parameters": {"default": read_rope(json, theta=10_000.0)},
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return qwen3_json(config) | write_window_layers(config)


def qwen3_json(config: ModelConfig) -> Json:
    """Return the keys of `config.json` that dense and sparse models of the family share."""
    return {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_bias,
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
        "rope_parameters": write_rope(config.rope_parameters["default"]),
    }


PRESET = Preset(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "qwen3-0.6b": {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
    },
)
