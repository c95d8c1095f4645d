"""DeepSeek-V3: latent attention and fine-grained experts selected by a biased sigmoid (arXiv 2412.19437).

The first layers are dense. The others route each token to experts of the best groups and add shared experts. One
multi-token prediction module was released with the weights. R1, V3-0324 and Kimi K2 have the same architecture.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.presets.preset import Json, Preset, read_rope, same_keys, write_rope
from modelstack.errors import UserError

LATENT_SIZES = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
EXPERT_SIZES = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json` to a `ModelConfig`.

    Raises:
        UserError: A size is missing, or there are fewer KV heads than heads, which latent attention does not
            support.
    """
    same = same_keys(json)
    heads, layers = same["num_attention_heads"], same["num_hidden_layers"]
    missing = [key for key in LATENT_SIZES + EXPERT_SIZES if json.get(key) is None]
    if missing:
        raise UserError(f"config.json has no {', '.join(missing)}: every deepseek_v3 model must set them")
    if (json.get("num_key_value_heads") or heads) != heads:
        raise UserError(
            f"num_key_value_heads {json['num_key_value_heads']} must equal num_attention_heads {heads}: "
            f"latent attention has a key for every head"
        )
    n_dense = min(json.get("first_k_dense_replace") or 0, layers)
    return build(
        same
        | {key: json[key] for key in LATENT_SIZES + EXPERT_SIZES}
        | {
            "model_type": "deepseek_v3",
            "intermediate_size": json.get("intermediate_size") or 0,
            "num_key_value_heads": heads,
            "head_dim": json["qk_nope_head_dim"] + json["qk_rope_head_dim"],
            "layer_types": ("latent_attention",) * layers,
            "mlp_layer_types": ("dense",) * n_dense + ("moe",) * (layers - n_dense),
            "hidden_act": json.get("hidden_act", "silu"),
            "attention_bias": bool(json.get("attention_bias")),
            "attention_out_bias": bool(json.get("attention_bias")),
            "q_lora_rank": json.get("q_lora_rank"),
            "rope_interleave": json.get("rope_interleave") is not False,
            "rope_parameters": {"default": read_rope(json, theta=10_000.0)},
            "n_shared_experts": json.get("n_shared_experts") or 0,
            "scoring_func": "sigmoid",
            "score_correction_bias": True,
            "norm_topk_prob": json.get("norm_topk_prob") is not False,
            "routed_scaling_factor": json.get("routed_scaling_factor", 1.0),
            "n_group": json.get("n_group") or 1,
            "topk_group": json.get("topk_group") or 1,
            "num_nextn_predict_layers": json.get("num_nextn_predict_layers") or 0,
        }
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate to a `config.json`."""
    return {key: getattr(config, key) for key in LATENT_SIZES + EXPERT_SIZES} | {
        "intermediate_size": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads,
        "first_k_dense_replace": config.mlp_layer_types.count("dense"),
        "moe_layer_freq": 1,
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_bias,
        "q_lora_rank": config.q_lora_rank,
        "rope_interleave": config.rope_interleave,
        "rope_parameters": write_rope(config.rope_parameters["default"]),
        "n_shared_experts": config.n_shared_experts,
        "scoring_func": config.scoring_func,
        "topk_method": "noaux_tc",
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "num_nextn_predict_layers": config.num_nextn_predict_layers,
    }


PRESET = Preset(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        "deepseek-v3": {
            "vocab_size": 129280,
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "max_position_embeddings": 163840,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.02,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "rope_theta": 10000,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
            "first_k_dense_replace": 3,
            "moe_layer_freq": 1,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2048,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 8,
            "topk_group": 4,
            "num_nextn_predict_layers": 1,
        },
    },
)
