"""DeepSeek-V4: shared-KV attention on a window and compressed entries, hash and top-k experts, hyper-connections.

Report: arXiv 2606.19348. Two forms of `config.json` can be read: transformers' (`layer_types`, `mlp_layer_types`,
`compress_rates`, `rope_parameters` by "main" and "compress") and the one that DeepSeek released
(`compress_ratios`, `num_hash_layers`, `qk_rope_head_dim`, `compress_rope_theta`, `rope_scaling`). transformers'
form is written. Layers without compression use plain rotation; compressing layers have their own base and use YaRN
for all rotations.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig, RopeParameters, build
from modelstack.architecture.presets.preset import Json, Preset, read_rope, same_keys, write_rope
from modelstack.errors import UserError

SLIDING = "shared_kv_sliding_attention"
SPARSE = "compressed_sparse_attention"
HEAVY = "heavily_compressed_attention"

LAYER_TYPES = {"sliding_attention": SLIDING, SPARSE: SPARSE, HEAVY: HEAVY}
"""transformers' names to our names, which distinguish the windows of different attention kinds."""

COMPRESS_RATES = {SPARSE: 4, HEAVY: 128}
"""Tokens per entry in all released models."""

FLASH: Json = {
    "vocab_size": 129280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "sliding_window": 128,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "n_routed_experts": 256,
    "num_experts_per_tok": 6,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "num_hash_layers": 3,
    "num_nextn_predict_layers": 1,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "max_position_embeddings": 1048576,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""Defaults for absent keys, as in transformers; the values are those of Flash."""

_YARN: Json = {
    "type": "yarn",
    "factor": 16,
    "original_max_position_embeddings": 65536,
    "beta_fast": 32,
    "beta_slow": 1,
}

_SAME = (
    "moe_intermediate_size",
    "head_dim",
    "q_lora_rank",
    "sliding_window",
    "o_groups",
    "o_lora_rank",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_shared_experts",
    "scoring_func",
    "norm_topk_prob",
    "routed_scaling_factor",
    "swiglu_limit",
    "hc_mult",
    "hc_sinkhorn_iters",
    "hc_eps",
    "num_nextn_predict_layers",
)


def from_hf(json: Json) -> ModelConfig:
    """Translate a `config.json`, in transformers' or DeepSeek's form, to a `ModelConfig`.

    Raises:
        UserError: The types of the layers are missing or unknown, or sizes do not match.
    """
    given = {key: value for key, value in json.items() if value is not None}
    full = FLASH | given
    rates = COMPRESS_RATES | full.get("compress_rates", {})
    rope_dim = full["qk_rope_head_dim"]
    if "partial_rotary_factor" in given:
        rope_dim = int(full["head_dim"] * full["partial_rotary_factor"])
    main, compress = _read_rope(full, rope_dim / full["head_dim"])
    return build(
        same_keys(full)
        | {key: full[key] for key in _SAME}
        | {
            "model_type": "deepseek_v4",
            "num_key_value_heads": 1,
            "layer_types": _layer_types(full, rates),
            "mlp_layer_types": _mlp_layer_types(full),
            "compress_rates": rates,
            "qk_rope_head_dim": rope_dim,
            "rope_parameters": {SLIDING: main, SPARSE: compress, HEAVY: compress},
            "rope_interleave": True,
            "norm_type": "rmsnorm_fp32",
            "norm_placement": "hyper",
            "attention_sinks": True,
            "hidden_act": full.get("hidden_act", "silu"),
            "score_correction_bias": True,
        }
    )


def _layer_types(json: Json, rates: dict[str, int]) -> tuple[str, ...]:
    n = json["num_hidden_layers"]
    if "layer_types" in json:
        try:
            return tuple(LAYER_TYPES[name] for name in json["layer_types"][:n])
        except KeyError as error:
            raise UserError(
                f"layer_types contains {error}; the types of DeepSeek-V4 are {', '.join(LAYER_TYPES)}"
            ) from error
    if "compress_ratios" not in json:
        # transformers would use Pro's pattern, which no released Flash has.
        raise UserError(
            "a deepseek_v4 config.json must set layer_types or compress_ratios; there is no default order"
        )
    kinds = {0: SLIDING} | {rate: kind for kind, rate in rates.items()}
    # The released lists continue with the layers of multi-token prediction.
    ratios = json["compress_ratios"][:n]
    if unknown := sorted(set(ratios) - kinds.keys()):
        raise UserError(f"compress_ratios contains unknown ratios {unknown}; known ratios: {sorted(kinds)}")
    return tuple(kinds[ratio] for ratio in ratios)


def _mlp_layer_types(json: Json) -> tuple[str, ...]:
    n = json["num_hidden_layers"]
    if "mlp_layer_types" in json:
        return tuple(json["mlp_layer_types"][:n])
    n_hash = min(n, json["num_hash_layers"])
    return ("hash_moe",) * n_hash + ("moe",) * (n - n_hash)


def _read_rope(json: Json, share: float) -> tuple[RopeParameters, RopeParameters]:
    """Return the rotary parameters of plain and of compressing layers."""
    given = json.get("rope_parameters") or json.get("rope_scaling") or {}
    length = json["max_position_embeddings"]
    if "main" in given and "compress" in given:
        main = read_rope({"rope_parameters": given["main"]}, theta=json["rope_theta"], max_length=length)
        theta = json["compress_rope_theta"]
        return main, read_rope({"rope_parameters": given["compress"]}, theta=theta, max_length=length)
    compress = dict(given) | {"rope_theta": json["compress_rope_theta"]}
    if "yarn" in (compress.get("rope_type"), compress.get("type")):
        # DeepSeek's code does not scale cos and sin.
        compress.setdefault("attention_factor", 1.0)
    return (
        RopeParameters(rope_theta=json["rope_theta"], partial_rotary_factor=share),
        read_rope(
            {"rope_parameters": compress, "partial_rotary_factor": share}, theta=160_000.0, max_length=length
        ),
    )


def to_hf(config: ModelConfig) -> Json:
    """Translate a `ModelConfig` to transformers' `config.json`."""
    names = {ours: theirs for theirs, ours in LAYER_TYPES.items()}
    main, compress = config.rope_parameters[SLIDING], config.rope_parameters[SPARSE]
    return {key: getattr(config, key) for key in _SAME} | {
        "num_key_value_heads": 1,
        "hidden_act": config.hidden_act,
        "layer_types": [names[kind] for kind in config.layer_types],
        "mlp_layer_types": list(config.mlp_layer_types),
        "compress_rates": dict(config.compress_rates),
        "partial_rotary_factor": (config.qk_rope_head_dim or 0) / config.head_dim,
        "rope_theta": main.rope_theta,
        "compress_rope_theta": compress.rope_theta,
        "rope_parameters": {"main": write_rope(main), "compress": write_rope(compress)},
    }


PRESET = Preset(
    model_type="deepseek_v4",
    architecture="DeepseekV4ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    sizes={
        # The released config.json, quoted in full by several public repositories.
        "deepseek-v4-flash": FLASH | {"compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0], "rope_scaling": _YARN},
        # Sizes, rates, rotation, router and hyper-connections as public repositories quote Pro's config.json.
        # Assumed equal to Flash's: rms_norm_eps, initializer_range, special tokens, max_position_embeddings.
        "deepseek-v4-pro": FLASH
        | {
            "hidden_size": 7168,
            "moe_intermediate_size": 3072,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "q_lora_rank": 1536,
            "o_groups": 16,
            "index_topk": 1024,
            "n_routed_experts": 384,
            "routed_scaling_factor": 2.5,
            "compress_ratios": [128] + [128, 4] * 30 + [0],
            "rope_scaling": _YARN,
        },
        # A small size of our own with Flash's order of layers. Every row of a matrix is a multiple of 256 numbers
        # long, as K-quants require. Rates 4 and 128, index heads of 64 channels and leading hash layers are
        # required by llama.cpp. With 16 index heads, scores are rarely equal; llama.cpp breaks ties in a different
        # order.
        "nano-v4": {
            "vocab_size": 8192,
            "hidden_size": 256,
            "moe_intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "head_dim": 64,
            "q_lora_rank": 256,
            "qk_rope_head_dim": 32,
            "o_groups": 2,
            "o_lora_rank": 128,
            "index_n_heads": 16,
            "index_head_dim": 64,
            "index_topk": 64,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "compress_ratios": [0, 4, 128, 4],
            "num_hash_layers": 1,
            "num_nextn_predict_layers": 0,
            "max_position_embeddings": 4096,
        },
    },
)
