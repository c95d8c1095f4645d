"""Llama 2 and 3: pre-norm, RMSNorm, SwiGLU, grouped-query attention (arXiv 2307.09288, 2407.21783)."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import Json, Preset, read_rope, same_keys, write_rope

_LLAMA3 = {"vocab_size": 128256, "rope_theta": 500000.0, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
_LLAMA31_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`."""
    same = same_keys(json)
    heads, layers = same["num_attention_heads"], same["num_hidden_layers"]
    return build(
        same
        | {
            "model_type": "llama",
            "intermediate_size": json["intermediate_size"],
            "num_key_value_heads": json.get("num_key_value_heads") or heads,
            "head_dim": json.get("head_dim") or same["hidden_size"] // heads,
            "layer_types": ("full_attention",) * layers,
            "mlp_layer_types": ("dense",) * layers,
            "hidden_act": json.get("hidden_act", "silu"),
            "attention_bias": bool(json.get("attention_bias")),
            "attention_out_bias": bool(json.get("attention_bias")),
            "mlp_bias": bool(json.get("mlp_bias")),
            "rope_parameters": {"default": read_rope(json, theta=10_000.0)},
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "rope_parameters": write_rope(config.rope_parameters["default"]),
    }


PRESET = Preset(
    model_type="llama",
    architecture="LlamaForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "llama-3-8b": _LLAMA3
        | {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        "llama-3-70b": _LLAMA3
        | {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
        "llama-3.1-405b": _LLAMA3
        | {
            "hidden_size": 16384,
            "intermediate_size": 53248,
            "num_hidden_layers": 126,
            "num_attention_heads": 128,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rope_scaling": _LLAMA31_SCALING,
        },
        "smollm2-135m": {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "tie_word_embeddings": True,
        },
    },
)
