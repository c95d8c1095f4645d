"""SmolLM3: llama without positions in every fourth layer (NoPE, arXiv 2501.18795)."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import Json, Preset, layer_list, read_rope, same_keys, write_rope

_INTERVAL = 4
"""Interval of layers without rotation: every fourth layer."""


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`."""
    same = same_keys(json, tied_by_default=True)
    heads, layers = same["num_attention_heads"], same["num_hidden_layers"]
    interval = json.get("no_rope_layer_interval") or _INTERVAL
    rotates = json.get("no_rope_layers") or [int((layer + 1) % interval != 0) for layer in range(layers)]
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    default = tuple("sliding_attention" if window and not rope else "full_attention" for rope in rotates[:layers])
    return build(
        same
        | {
            "model_type": "smollm3",
            "intermediate_size": json["intermediate_size"],
            "num_key_value_heads": json.get("num_key_value_heads", 4) or heads,
            "head_dim": json.get("head_dim") or same["hidden_size"] // heads,
            "layer_types": layer_list(json, "layer_types", default),
            "mlp_layer_types": ("dense",) * layers,
            "sliding_window": window,
            "no_rope_layers": tuple(rotates[:layers]),
            "hidden_act": json.get("hidden_act", "silu"),
            "attention_bias": bool(json.get("attention_bias")),
            "attention_out_bias": bool(json.get("attention_bias")),
            "mlp_bias": bool(json.get("mlp_bias")),
            "rope_parameters": {"default": read_rope(json, theta=2_000_000.0)},
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "layer_types": list(config.layer_types),
        "no_rope_layers": list(config.no_rope_layers),
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "rope_parameters": write_rope(config.rope_parameters["default"]),
    }


PRESET = Preset(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "smollm3-3b": {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 65536,
            "rope_theta": 5000000.0,
            "tie_word_embeddings": True,
        },
    },
)
