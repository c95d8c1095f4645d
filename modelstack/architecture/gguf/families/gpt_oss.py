"""gpt-oss: sinks, alternating windows and full attention, biases everywhere, experts with a clamped SwiGLU.

transformers does not round YaRN's bounds here (`truncate` false); llama.cpp always rounds them. This changes the
logits by about 2e-4 on small test models and applies to every gpt-oss model in GGUF.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import (
    TRUNCATE_KEY,
    read_rope_fields,
    relative_difference,
    rope_fields,
    rope_limits,
)
from modelstack.architecture.gguf.rules import Rule, interleaved_experts, plain, transposed_experts
from modelstack.architecture.presets.preset import Json

_PERIOD = 2
"""Interval of full-attention layers that llama.cpp assumes for files without a pattern."""


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules of all tensors."""
    yield from grouped.embedding_rules(config)
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        yield from grouped.attention_rules(config, layer)
        yield plain(f"{ours}.self_attn.sinks", f"{theirs}.attn_sinks.weight")
        yield plain(f"{ours}.input_layernorm.weight", f"{theirs}.attn_norm.weight")
        yield plain(f"{ours}.post_attention_layernorm.weight", f"{theirs}.post_attention_norm.weight")
        yield plain(f"{ours}.mlp.router.weight", f"{theirs}.ffn_gate_inp.weight", in_full=True)
        yield plain(f"{ours}.mlp.router.bias", f"{theirs}.ffn_gate_inp.bias")
        yield from _experts(f"{ours}.mlp.experts", theirs)
    yield grouped.final_norm_rule()


def _experts(ours: str, theirs: str) -> Iterator[Rule]:
    for name, kind in (("gate_up_proj", "weight"), ("gate_up_proj_bias", "bias")):
        yield interleaved_experts(
            f"{ours}.{name}", f"{theirs}.ffn_gate_exps.{kind}", f"{theirs}.ffn_up_exps.{kind}"
        )
    yield transposed_experts(f"{ours}.down_proj", f"{theirs}.ffn_down_exps.weight")
    yield plain(f"{ours}.down_proj_bias", f"{theirs}.ffn_down_exps.bias")


def write(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of attention."""
    rope = config.rope_parameters["default"]
    fields = grouped.head_fields(config) | grouped.window_fields(config) | rope_fields(rope)
    if rope.rope_type == "yarn":
        fields[TRUNCATE_KEY] = rope.truncate
    return fields


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `write` stored."""
    rope = read_rope_fields(fields)
    if rope["rope_type"] == "yarn":
        rope["truncate"] = fields.flag(TRUNCATE_KEY, False)
    if "feed_forward_length" in fields:
        fields.must_equal("feed_forward_length", json["intermediate_size"], "an expert's width")
    return (
        grouped.read_head_fields(fields, json)
        | grouped.read_window_fields(fields, json, _PERIOD)
        | {"attention_bias": stored.has_bias(), "rope_parameters": rope}
    )


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's loader and graph do not support."""
    rope = config.rope_parameters["default"]
    yield from rope_limits(rope.model_copy(update={"truncate": True}))
    if not config.attention_bias:
        yield "attention_bias is false: llama.cpp's 'gpt-oss' requires biases at q, k, v and o, add biases of 0"
    if config.sliding_window is None:
        yield "sliding_window is not set: llama.cpp's 'gpt-oss' requires one, even if no layer uses it"


def notes(config: ModelConfig) -> Iterator[str]:
    """Yield a note on how much the rounding of YaRN's bounds changes frequencies."""
    rope = config.rope_parameters["default"]
    if rope.rope_type == "yarn" and not rope.truncate:
        rounded = rope.model_copy(update={"truncate": True})
        moved = relative_difference(rope, rounded, config.head_dim)
        yield (
            f"truncate is false: llama.cpp rounds YaRN's bounds, which changes frequencies by up to "
            f"{moved:.1%}; a model trained with truncate true has no such difference"
        )


FAMILY = Family(
    arch="gpt-oss",
    model_type="gpt_oss",
    keys=(
        Key("expert_count", "num_local_experts"),
        Key("expert_used_count", "num_experts_per_tok"),
        Key("expert_feed_forward_length", "intermediate_size"),
    ),
    rules=rules,
    write=write,
    read=read,
    limits=limits,
    notes=notes,
    output_required=True,
)
