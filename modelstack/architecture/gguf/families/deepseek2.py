"""DeepSeek-V3, llama.cpp's `deepseek2`: latent attention in the absorbed form, grouped sigmoid routing.

The cache holds one latent and one rotated key per token, so the file declares one KV head with rank + rotated
channels. Modules for multi-token prediction are layers after the last, with `nextn` tensors.

Letters: H heads, rk `kv_lora_rank`, dn, dr and dv the head's plain, rotated and value channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import experts, grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import read_rope_fields, rope_fields, rope_limits
from modelstack.architecture.gguf.rules import Rule, latent_expansion, plain
from modelstack.architecture.presets.preset import Json
from modelstack.errors import UserError

_SIGMOID = 2
"""Value of `LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID`."""
_LITE_LAYERS = (26, 27)
"""Numbers of layers for which llama.cpp assumes V2-Lite and ignores q_lora_rank."""
_INNER_NORM_EPS = 1e-6
"""Epsilon of the latents' two norms in transformers; llama.cpp uses `rms_norm_eps` for all norms."""
_LOG_MULTIPLIER = 0.1
"""Factor on `mscale_all_dim` in llama.cpp's converter; the loader divides by it."""


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules of all tensors."""
    yield from grouped.embedding_rules(config)
    for layer, kind in enumerate(config.mlp_layer_types):
        yield from _layer(config, f"model.layers.{layer}", f"blk.{layer}", kind)
    yield grouped.final_norm_rule()
    for module in range(config.num_nextn_predict_layers):
        ours, theirs = f"mtp.{module}", f"blk.{config.num_hidden_layers + module}"
        yield plain(f"{ours}.eh_proj.weight", f"{theirs}.nextn.eh_proj.weight")
        yield plain(f"{ours}.enorm.weight", f"{theirs}.nextn.enorm.weight")
        yield plain(f"{ours}.hnorm.weight", f"{theirs}.nextn.hnorm.weight")
        yield plain(f"{ours}.norm.weight", f"{theirs}.nextn.shared_head_norm.weight")
        yield from _layer(config, f"{ours}.block", theirs, "moe")


def _layer(config: ModelConfig, ours: str, theirs: str, kind: str) -> Iterator[Rule]:
    yield from _attention(config, f"{ours}.self_attn", theirs)
    yield plain(f"{ours}.input_layernorm.weight", f"{theirs}.attn_norm.weight")
    yield plain(f"{ours}.post_attention_layernorm.weight", f"{theirs}.ffn_norm.weight")
    if kind == "dense":
        for part in ("gate", "up", "down"):
            yield plain(f"{ours}.mlp.{part}_proj.weight", f"{theirs}.ffn_{part}.weight")
        return
    yield from experts.routed_rules(ours, theirs)
    yield from experts.shared_rules(ours, theirs)
    yield experts.correction_rule(ours, theirs)


def _attention(config: ModelConfig, ours: str, theirs: str) -> Iterator[Rule]:
    if config.q_lora_rank:
        yield plain(f"{ours}.q_a_proj.weight", f"{theirs}.attn_q_a.weight")
        yield plain(f"{ours}.q_a_layernorm.weight", f"{theirs}.attn_q_a_norm.weight")
        yield plain(f"{ours}.q_b_proj.weight", f"{theirs}.attn_q_b.weight")
    yield plain(f"{ours}.kv_a_proj_with_mqa.weight", f"{theirs}.attn_kv_a_mqa.weight")
    yield plain(f"{ours}.kv_a_layernorm.weight", f"{theirs}.attn_kv_a_norm.weight")
    yield latent_expansion(
        f"{ours}.kv_b_proj.weight",
        f"{theirs}.attn_k_b.weight",
        f"{theirs}.attn_v_b.weight",
        config.num_attention_heads,
        config.qk_nope_head_dim or 0,
    )
    yield plain(f"{ours}.o_proj.weight", f"{theirs}.attn_output.weight")


def write(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of latents, groups, dense layers and prediction modules."""
    rk, dr = config.kv_lora_rank or 0, config.qk_rope_head_dim or 0
    rope = config.rope_parameters["default"]
    fields: dict[str, Value] = rope_fields(rope) | {
        "attention.head_count_kv": 1,
        "attention.key_length": rk + dr,
        "attention.value_length": rk,
        "attention.key_length_mla": config.head_dim,
        "rope.dimension_count": dr,
        "leading_dense_block_count": config.mlp_layer_types.count("dense"),
        "expert_gating_func": _SIGMOID,
    }
    if config.intermediate_size:
        fields["feed_forward_length"] = config.intermediate_size
    if config.n_group > 1:
        fields |= {"expert_group_count": config.n_group, "expert_group_used_count": config.topk_group}
    if rope.rope_type == "yarn":
        fields["rope.scaling.yarn_log_multiplier"] = _LOG_MULTIPLIER * (rope.mscale_all_dim or 0)
    if modules := config.num_nextn_predict_layers:
        fields |= {"nextn_predict_layers": modules, "block_count": config.num_hidden_layers + modules}
    return fields


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `write` stored."""
    rk, dr = json["kv_lora_rank"], fields.size("rope.dimension_count")
    head_dim = fields.size("attention.key_length_mla")
    fields.must_equal("attention.head_count_kv", 1, "one latent")
    fields.must_equal("attention.key_length", rk + dr, "the latent and the rotated key")
    fields.must_equal("attention.value_length", rk, "the latent")
    fields.must_equal("expert_gating_func", _SIGMOID, "the sigmoid")
    if head_dim <= dr:
        raise UserError(
            f"GGUF deepseek2.attention.key_length_mla {head_dim} must exceed the {dr} rotated channels"
        )
    modules = fields.size("nextn_predict_layers") if "nextn_predict_layers" in fields else 0
    layers = json["num_hidden_layers"] - modules
    if layers < 1:
        raise UserError(f"GGUF deepseek2.nextn_predict_layers {modules} leaves no layer")
    return {
        "num_hidden_layers": layers,
        "num_nextn_predict_layers": modules,
        "num_key_value_heads": json["num_attention_heads"],
        "qk_rope_head_dim": dr,
        "qk_nope_head_dim": head_dim - dr,
        "first_k_dense_replace": fields.count("leading_dense_block_count", 0),
        "intermediate_size": fields.size("feed_forward_length") if "feed_forward_length" in fields else 0,
        "n_group": fields.size("expert_group_count", 1),
        "topk_group": fields.size("expert_group_used_count", 1),
        "rope_parameters": _read_rope(fields),
    }


def _read_rope(fields: Fields) -> Json:
    rope = read_rope_fields(fields)
    multiplier = fields.number("rope.scaling.yarn_log_multiplier", 0.0)
    if rope["rope_type"] == "yarn" and multiplier:
        all_dims = float(f"{multiplier / _LOG_MULTIPLIER:.6g}")
        rope |= {"mscale": all_dims, "mscale_all_dim": all_dims}
    return rope


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    rope = config.rope_parameters["default"]
    yield from rope_limits(rope)
    if rope.rope_type == "yarn":
        same = rope.mscale_all_dim and isclose(rope.mscale or 0, rope.mscale_all_dim)
        if not same or rope.attention_factor is not None:
            yield (
                f"YaRN with mscale {rope.mscale}, mscale_all_dim {rope.mscale_all_dim}, attention_factor "
                f"{rope.attention_factor}: llama.cpp's 'deepseek2' requires equal mscales "
                f"above 0, and no attention_factor"
            )
    if config.num_hidden_layers in _LITE_LAYERS:
        yield f"num_hidden_layers is {config.num_hidden_layers}: llama.cpp assumes V2-Lite, use another"
    if not config.q_lora_rank:
        yield "q_lora_rank is not set: llama.cpp's 'deepseek2' requires query latents, set it"
    if not isclose(config.rms_norm_eps, _INNER_NORM_EPS):
        yield (
            f"rms_norm_eps is {config.rms_norm_eps}: the latents' norms use {_INNER_NORM_EPS}, and llama.cpp "
            f"uses one value for all norms; set it to {_INNER_NORM_EPS}"
        )
    if not config.n_shared_experts:
        yield "n_shared_experts is 0: llama.cpp's 'deepseek2' requires shared experts, set it to 1 or more"
    if "moe" not in config.mlp_layer_types:
        yield "mlp_layer_types has no moe layer: llama.cpp's 'deepseek2' requires experts"
    if config.n_group > 1 and config.topk_group >= config.n_group:
        yield f"topk_group {config.topk_group} of n_group {config.n_group}: all are selected, set n_group to 1"
    if config.n_group > 1 and (config.n_routed_experts or 0) < 2 * config.n_group:
        yield f"n_group {config.n_group}: llama.cpp requires two experts per group, set n_group to 1"


FAMILY = Family(
    arch="deepseek2",
    model_type="deepseek_v3",
    keys=(
        Key("attention.q_lora_rank", "q_lora_rank"),
        Key("attention.kv_lora_rank", "kv_lora_rank"),
        Key("attention.value_length_mla", "v_head_dim"),
        Key("expert_count", "n_routed_experts"),
        Key("expert_used_count", "num_experts_per_tok"),
        Key("expert_feed_forward_length", "moe_intermediate_size"),
        Key("expert_shared_count", "n_shared_experts"),
        Key("expert_weights_scale", "routed_scaling_factor", "number"),
        Key("expert_weights_norm", "norm_topk_prob", "flag"),
    ),
    rules=rules,
    write=write,
    read=read,
    limits=limits,
)
