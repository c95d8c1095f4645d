"""Qwen2 and Qwen2.5: llama with biases on queries, keys and values (arXiv 2407.10671, 2412.15115)."""

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

_QWEN25_CODER = {
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`."""
    same = same_keys(json)
    heads = same["num_attention_heads"]
    return build(
        same
        | read_window_layers(json, max_window_layers=28)
        | {
            "model_type": "qwen2",
            "intermediate_size": json["intermediate_size"],
            "num_key_value_heads": json.get("num_key_value_heads") or heads,
            "head_dim": json.get("head_dim") or same["hidden_size"] // heads,
            "mlp_layer_types": ("dense",) * same["num_hidden_layers"],
            "hidden_act": json.get("hidden_act", "silu"),
            "attention_bias": True,
            "rope_parameters": {"default": read_rope(json, theta=10_000.0)},
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return write_window_layers(config) | {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "rope_parameters": write_rope(config.rope_parameters["default"]),
    }


PRESET = Preset(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "qwen2.5-coder-0.5b": _QWEN25_CODER
        | {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
        "qwen2.5-coder-1.5b": _QWEN25_CODER
        | {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
    },
)
