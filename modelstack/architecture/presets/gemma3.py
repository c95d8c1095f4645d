"""Gemma 3, text: sandwich norms of 1 + weight, five windowed layers per full layer, GeGLU (arXiv 2503.19786)."""

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
from modelstack.errors import UserError

_PATTERN = 6
"""Interval of full-attention layers: every sixth layer."""


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`.

    Raises:
        UserError: The model uses bidirectional attention.
    """
    if json.get("use_bidirectional_attention"):
        raise UserError(
            "use_bidirectional_attention is true: the model is an encoder; only decoders are supported"
        )
    same = same_keys(json, tied_by_default=True)
    layers = same["num_hidden_layers"]
    pattern = json.get("sliding_window_pattern") or _PATTERN
    default = tuple("sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers))
    thetas = {
        "full_attention": json.get("rope_theta") or 1_000_000.0,
        "sliding_attention": json.get("rope_local_base_freq") or 10_000.0,
    }
    return build(
        same
        | {
            "model_type": "gemma3_text",
            "intermediate_size": json["intermediate_size"],
            "num_key_value_heads": json.get("num_key_value_heads", 4),
            "head_dim": json.get("head_dim", 256),
            "layer_types": layer_list(json, "layer_types", default),
            "mlp_layer_types": ("dense",) * layers,
            "norm_type": "rmsnorm_zero_centred",
            "norm_placement": "sandwich",
            "qk_norm": "head",
            "hidden_act": json.get("hidden_activation") or "gelu_pytorch_tanh",
            "attention_bias": bool(json.get("attention_bias")),
            "attention_out_bias": bool(json.get("attention_bias")),
            "sliding_window": json.get("sliding_window") or 4096,
            "query_pre_attn_scalar": json.get("query_pre_attn_scalar") or 256,
            "final_logit_softcapping": json.get("final_logit_softcapping"),
            "scale_embeddings": True,
            "rope_parameters": read_rope_by_layer_type(json, thetas),
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "layer_types": list(config.layer_types),
        "hidden_activation": config.hidden_act,
        "attention_bias": config.attention_bias,
        "sliding_window": config.sliding_window,
        # transformers accepts integers only; a fractional value is lost and rejected by `registry.to_hf`.
        "query_pre_attn_scalar": int(config.query_pre_attn_scalar or config.head_dim),
        "final_logit_softcapping": config.final_logit_softcapping,
        "rope_parameters": {kind: write_rope(rope) for kind, rope in config.rope_parameters.items()},
    }


PRESET = Preset(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "gemma3-1b": {
            "vocab_size": 262144,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
            "query_pre_attn_scalar": 256,
            "max_position_embeddings": 32768,
        },
    },
)
