"""OLMo 3: norms after attention and MLP, QK-norm over the projection, three windowed layers per full layer."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import (
    Json,
    Preset,
    layer_list,
    read_rope_by_layer_type,
    same_keys,
    write_rope,
)

_PATTERN = 4
"""Interval of full-attention layers: every fourth layer."""


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`."""
    same = same_keys(json)
    heads, layers = same["num_attention_heads"], same["num_hidden_layers"]
    default = tuple("sliding_attention" if (layer + 1) % _PATTERN else "full_attention" for layer in range(layers))
    theta = json.get("rope_theta") or 500_000.0
    return build(
        same
        | {
            "model_type": "olmo3",
            "intermediate_size": json["intermediate_size"],
            "num_key_value_heads": json.get("num_key_value_heads") or heads,
            "head_dim": same["hidden_size"] // heads,
            "layer_types": layer_list(json, "layer_types", default),
            "mlp_layer_types": ("dense",) * layers,
            "norm_type": "rmsnorm_fp32",
            "norm_placement": "post",
            "rms_norm_eps": json.get("rms_norm_eps", 1e-5),
            "qk_norm": "projection",
            "hidden_act": json.get("hidden_act", "silu"),
            "attention_bias": bool(json.get("attention_bias")),
            "attention_out_bias": bool(json.get("attention_bias")),
            "sliding_window": json.get("sliding_window") or 4096,
            "rope_parameters": read_rope_by_layer_type(
                json, {"full_attention": theta, "sliding_attention": theta}
            ),
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "layer_types": list(config.layer_types),
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_bias,
        "sliding_window": config.sliding_window,
        "rope_parameters": {kind: write_rope(rope) for kind, rope in config.rope_parameters.items()},
    }


PRESET = Preset(
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "olmo3-7b": {
            "vocab_size": 100278,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 65536,
            "sliding_window": 4096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "beta_fast": 32,
                "beta_slow": 1,
                "attention_factor": 1.2079441541679836,
            },
        },
    },
)
