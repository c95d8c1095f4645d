"""gpt-oss: sinks, a window of 128 tokens in every other layer, biases everywhere, experts with a clamped SwiGLU.

Model card: arXiv 2508.10925; sinks: StreamingLLM, 2309.17453. The router applies the softmax only to the selected
logits. YaRN, without rounding to whole channels, extends 4,096 trained positions by a factor of 32.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import Json, Preset, layer_list, read_rope, same_keys, write_rope
from modelstack.errors import UserError

_THETA = 150_000.0
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""Default scaling of a `config.json` without rotary keys."""


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`.

    Raises:
        UserError: A size is missing.
    """
    same = same_keys(json)
    heads, layers = same["num_attention_heads"], same["num_hidden_layers"]
    n_experts = json.get("num_local_experts") or json.get("num_experts")
    if not n_experts or not json.get("intermediate_size"):
        raise UserError(
            "config.json lacks num_local_experts or intermediate_size: every gpt_oss model must set both"
        )
    alternating = tuple(("sliding_attention", "full_attention")[layer % 2] for layer in range(layers))
    if not (json.get("rope_parameters") or json.get("rope_scaling")):
        json = json | {"rope_parameters": _YARN}
    bias = json.get("attention_bias") is not False
    return build(
        {"rms_norm_eps": 1e-5}
        | same
        | {
            "model_type": "gpt_oss",
            "num_key_value_heads": json.get("num_key_value_heads") or heads,
            "head_dim": json.get("head_dim") or same["hidden_size"] // heads,
            "layer_types": layer_list(json, "layer_types", alternating),
            "mlp_layer_types": ("moe",) * layers,
            "norm_type": "rmsnorm_fp32",
            "attention_bias": bias,
            "attention_out_bias": bias,
            "attention_sinks": True,
            "sliding_window": json.get("sliding_window", 128),
            "rope_parameters": {"default": read_rope(json, theta=_THETA)},
            "hidden_act": json.get("hidden_act", "silu"),
            "swiglu_alpha": json.get("swiglu_alpha", 1.702),
            "swiglu_limit": json.get("swiglu_limit", 7.0),
            "n_routed_experts": n_experts,
            "num_experts_per_tok": json.get("num_experts_per_tok") or json.get("experts_per_token") or 4,
            "moe_intermediate_size": json["intermediate_size"],
            "scoring_func": "topk_softmax",
            "router_bias": True,
            "experts_layout": "interleaved",
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return {
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "layer_types": list(config.layer_types),
        "attention_bias": config.attention_bias,
        "sliding_window": config.sliding_window,
        "rope_parameters": write_rope(config.rope_parameters["default"]),
        "hidden_act": config.hidden_act,
        "swiglu_alpha": config.swiglu_alpha,
        "swiglu_limit": config.swiglu_limit,
        "num_local_experts": config.n_routed_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "intermediate_size": config.moe_intermediate_size,
    }


_SIZES: Json = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "sliding_window": 128,
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
    "rope_theta": _THETA,
    "rope_scaling": _YARN,
    "eos_token_id": 200002,
    "pad_token_id": 199999,
}

PRESET = Preset(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "gpt-oss-20b": _SIZES | {"num_hidden_layers": 24, "num_local_experts": 32},
        "gpt-oss-120b": _SIZES | {"num_hidden_layers": 36, "num_local_experts": 128},
    },
)
