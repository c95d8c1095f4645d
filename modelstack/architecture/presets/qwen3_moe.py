"""Qwen3-MoE: Qwen3 with many small experts, eight of them active, none shared (arXiv 2505.09388)."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import Json, Preset
from modelstack.architecture.presets.qwen3 import qwen3_json, qwen3_values
from modelstack.errors import UserError


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`.

    Raises:
        UserError: A size is missing.
    """
    n_experts = json.get("num_experts") or json.get("num_local_experts")
    found = {"num_experts": n_experts} | {
        key: json.get(key) for key in ("num_experts_per_tok", "moe_intermediate_size")
    }
    missing = [key for key, value in found.items() if not value]
    if missing:
        raise UserError(f"config.json has no {', '.join(missing)}: every qwen3_moe model must set them")
    # These models, unlike the family's dense ones, derive an absent head width from the model's width.
    head_dim = json.get("head_dim") or json.get("hidden_size", 0) // json.get("num_attention_heads", 1)
    shared = qwen3_values(json | {"head_dim": head_dim})
    layers = shared["num_hidden_layers"]
    return build(
        shared
        | {
            "model_type": "qwen3_moe",
            # transformers uses windows in all layers or in none.
            "layer_types": ("sliding_attention" if shared["sliding_window"] else "full_attention",) * layers,
            "mlp_layer_types": tuple("moe" if _is_sparse(json, layer) else "dense" for layer in range(layers)),
            "n_routed_experts": n_experts,
            "num_experts_per_tok": found["num_experts_per_tok"],
            "moe_intermediate_size": found["moe_intermediate_size"],
            "norm_topk_prob": bool(json.get("norm_topk_prob")),
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to a `config.json`."""
    return qwen3_json(config) | {
        "num_experts": config.n_routed_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size,
        "norm_topk_prob": config.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer, kind in enumerate(config.mlp_layer_types) if kind == "dense"],
    }


def _is_sparse(json: Json, layer: int) -> bool:
    if layer in (json.get("mlp_only_layers") or ()):
        return False
    return (layer + 1) % (json.get("decoder_sparse_step") or 1) == 0


PRESET = Preset(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "qwen3-30b-a3b": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
        },
    },
)
