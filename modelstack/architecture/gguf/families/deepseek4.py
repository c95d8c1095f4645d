"""DeepSeek-V4: shared-KV attention with compressed entries, hash and top-k experts, four residual streams.

llama.cpp's loader supports compression by 4 (with an indexer) and by 128, four streams, and leading hash layers.
Its multi-token prediction module combines the streams with the model's own weights, but V4's modules have separate
weights, so modules are not exported. Indexer, compressors and stream mixing stay F32, because selections and
scales depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import experts, grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import read_rope_fields, rope_fields, rope_limits
from modelstack.architecture.gguf.rules import Rule, plain
from modelstack.architecture.presets.deepseek_v4 import COMPRESS_RATES, HEAVY, SLIDING, SPARSE
from modelstack.architecture.presets.preset import Json
from modelstack.errors import UserError

_SQRT_SOFTPLUS = 4
"""Value of `LLAMA_EXPERT_GATING_FUNC_TYPE_SQRT_SOFTPLUS`."""
_STREAMS = 4
_INDEX_HEAD_STEP = 64
"""Size of the Hadamard matrix that llama.cpp applies to index heads; it aborts if the size does not divide them.
"""
_RATIOS = {SLIDING: 0} | COMPRESS_RATES
_NO_CLAMP = 0.0

_ATTENTION = {
    "q_a_proj.weight": "attn_q_a.weight",
    "q_a_norm.weight": "attn_q_a_norm.weight",
    "q_b_proj.weight": "attn_q_b.weight",
    "kv_proj.weight": "attn_kv.weight",
    "kv_norm.weight": "attn_kv_a_norm.weight",
    "o_a_proj.weight": "attn_output_a.weight",
    "o_b_proj.weight": "attn_output_b.weight",
    "sinks": "attn_sinks.weight",
}
_COMPRESSOR = {
    "kv_proj.weight": "kv",
    "gate_proj.weight": "gate",
    "position_bias": "ape",
    "kv_norm.weight": "norm",
}
_INDEXER = {"q_b_proj.weight": "attn_q_b", "scorer.weights_proj.weight": "proj"}


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules of all tensors."""
    yield from grouped.embedding_rules(config)
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        yield from _attention(config.layer_types[layer], f"{ours}.self_attn", theirs)
        yield from grouped.pre_norm_rules(config, layer)
        for part in ("attn", "ffn"):
            for what in ("fn", "base", "scale"):
                yield plain(f"{ours}.{part}_hc.{what}", f"{theirs}.hc_{part}_{what}.weight", in_full=True)
        yield from experts.routed_rules(ours, theirs)
        yield from experts.shared_rules(ours, theirs)
        if config.mlp_layer_types[layer] == "hash_moe":
            yield Rule(f"{ours}.mlp.gate.tid2eid", (f"{theirs}.ffn_gate_tid2eid.weight",), holds_experts=True)
        else:
            yield experts.correction_rule(ours, theirs)
    for what in ("fn", "base", "scale"):
        yield plain(f"model.hc_head.hc_{what}", f"output_hc_{what}.weight", in_full=True)
    yield grouped.final_norm_rule()


def _attention(kind: str, ours: str, theirs: str) -> Iterator[Rule]:
    for name, stored in _ATTENTION.items():
        yield plain(f"{ours}.{name}", f"{theirs}.{stored}")
    if kind == SLIDING:
        return
    for name, stored in _COMPRESSOR.items():
        yield plain(f"{ours}.compressor.{name}", f"{theirs}.attn_compressor_{stored}.weight", in_full=True)
    if kind == SPARSE:
        indexer = f"{ours}.compressor.indexer"
        for name, stored in _COMPRESSOR.items():
            yield plain(f"{indexer}.{name}", f"{theirs}.indexer_compressor_{stored}.weight", in_full=True)
        for name, stored in _INDEXER.items():
            yield plain(f"{indexer}.{name}", f"{theirs}.indexer.{stored}.weight", in_full=True)


def write(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of attention, routing and streams."""
    layers = config.num_hidden_layers
    clamp = [config.swiglu_limit or _NO_CLAMP] * layers
    compress = config.rope_parameters[SPARSE]
    return rope_fields(compress) | {
        "rope.freq_base": config.rope_parameters[SLIDING].rope_theta,
        "attention.compress_rope_freq_base": compress.rope_theta,
        "rope.dimension_count": config.qk_rope_head_dim or 0,
        "attention.head_count_kv": 1,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.compress_ratios": [_RATIOS[kind] for kind in config.layer_types],
        "expert_gating_func": _SQRT_SOFTPLUS,
        "swiglu_clamp_exp": clamp,
        "swiglu_clamp_shexp": clamp,
        "hash_layer_count": config.mlp_layer_types.count("hash_moe"),
        "embedding_length_out": config.hidden_size * config.hc_mult,
    }


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `write` stored."""
    layers = json["num_hidden_layers"]
    head_dim, dr = fields.size("attention.key_length"), fields.size("rope.dimension_count")
    fields.must_equal("attention.value_length", head_dim, "the key's length")
    fields.must_equal("attention.head_count_kv", 1, "one shared vector")
    fields.must_equal("expert_gating_func", _SQRT_SOFTPLUS, "the root of the softplus")
    clamps = {*fields.row("swiglu_clamp_exp", layers), *fields.row("swiglu_clamp_shexp", layers)}
    ratios = fields.row("attention.compress_ratios", layers)
    hashed = fields.count("hash_layer_count", 0)
    if len(clamps) != 1 or not set(ratios) <= set(_RATIOS.values()) or hashed > layers or dr > head_dim:
        raise UserError(
            f"GGUF deepseek4 has clamps {sorted(clamps)[:5]}, compress_ratios {sorted(set(ratios))[:5]}, "
            f"hash_layer_count {hashed} and {dr} rotated channels of {head_dim}, which are invalid for DeepSeek-V4"
        )
    share = dr / head_dim
    compress = read_rope_fields(fields)
    main = {"rope_theta": compress["rope_theta"], "partial_rotary_factor": share}
    compress["rope_theta"] = fields.number("attention.compress_rope_freq_base")
    if compress["rope_type"] == "yarn":
        compress["attention_factor"] = 1.0  # cos and sin are not scaled, as in llama.cpp
    return {
        "head_dim": head_dim,
        "qk_rope_head_dim": dr,
        "swiglu_limit": clamps.pop() or None,
        "compress_ratios": ratios,
        "num_hash_layers": hashed,
        "num_nextn_predict_layers": 0,
        "rope_parameters": {"main": main, "compress": compress | {"partial_rotary_factor": share}},
    }


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's loader and graph do not support."""
    main, compress = config.rope_parameters[SLIDING], config.rope_parameters[SPARSE]
    for rope in (main, compress):
        yield from rope_limits(rope.model_copy(update={"partial_rotary_factor": 1.0}))
    if main.rope_type != "default":
        yield f"rope_parameters scale plain layers ({main.rope_type}): llama.cpp does not, set default"
    if compress.rope_type == "yarn" and compress.attention_factor != 1.0:
        yield f"attention_factor {compress.attention_factor}: llama.cpp uses 1, set it to 1"
    used = {kind: rate for kind, rate in config.compress_rates.items() if kind in config.layer_types}
    if any(COMPRESS_RATES[kind] != rate for kind, rate in used.items()):
        yield f"compress_rates are {used}: llama.cpp supports only {COMPRESS_RATES}"
    if SPARSE in config.layer_types and (config.index_head_dim or 0) % _INDEX_HEAD_STEP:
        yield f"index_head_dim is {config.index_head_dim}: llama.cpp requires a multiple of {_INDEX_HEAD_STEP}"
    if config.hc_mult != _STREAMS:
        yield f"hc_mult is {config.hc_mult}: llama.cpp supports only {_STREAMS} streams, set it to {_STREAMS}"
    n_hash = config.mlp_layer_types.count("hash_moe")
    if "hash_moe" in config.mlp_layer_types[n_hash:]:
        yield f"mlp_layer_types {config.mlp_layer_types}: llama.cpp requires hash_moe layers first"
    if not config.n_shared_experts:
        yield "n_shared_experts is 0: llama.cpp's 'deepseek4' requires shared experts, set it to 1 or more"


FAMILY = Family(
    arch="deepseek4",
    model_type="deepseek_v4",
    keys=(
        Key("attention.q_lora_rank", "q_lora_rank"),
        Key("attention.sliding_window", "sliding_window"),
        Key("attention.indexer.head_count", "index_n_heads"),
        Key("attention.indexer.key_length", "index_head_dim"),
        Key("attention.indexer.top_k", "index_topk"),
        Key("attention.output_group_count", "o_groups"),
        Key("attention.output_lora_rank", "o_lora_rank"),
        Key("expert_count", "n_routed_experts"),
        Key("expert_used_count", "num_experts_per_tok"),
        Key("expert_feed_forward_length", "moe_intermediate_size"),
        Key("expert_shared_count", "n_shared_experts"),
        Key("expert_weights_scale", "routed_scaling_factor", "number"),
        Key("expert_weights_norm", "norm_topk_prob", "flag"),
        Key("hyper_connection.count", "hc_mult"),
        Key("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
        Key("hyper_connection.epsilon", "hc_eps", "number"),
    ),
    rules=rules,
    write=write,
    read=read,
    limits=limits,
    rotations=(SLIDING, SPARSE, HEAVY),
    output_required=True,
)
