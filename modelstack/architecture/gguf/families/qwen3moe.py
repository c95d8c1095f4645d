"""Qwen3-MoE: Qwen3 with a router and experts in every layer, no shared experts, weights divided by their sum."""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import experts, grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields
from modelstack.architecture.gguf.rope_fields import rope_limits
from modelstack.architecture.gguf.rules import Rule
from modelstack.architecture.presets.preset import Json

_SOFTMAX = 1
"""Value of `LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX`; optional in files."""


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Return the rules of all tensors."""
    return grouped.model_rules(
        config, grouped.attention_rules, grouped.head_norm_rules, _experts, grouped.pre_norm_rules
    )


def _experts(config: ModelConfig, layer: int) -> Iterator[Rule]:
    return experts.routed_rules(f"model.layers.{layer}", f"blk.{layer}")


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that the metadata store."""
    fields.must_equal("expert_gating_func", _SOFTMAX, "the softmax")
    return grouped.read_attention_fields(fields, stored, json) | {"norm_topk_prob": True}


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    yield from grouped.no_output_bias(config, "qwen3moe")
    yield from grouped.no_windows(config, "qwen3moe")
    yield from rope_limits(config.rope_parameters["default"])
    yield from experts.experts_everywhere(config, "qwen3moe")
    if not config.norm_topk_prob:
        yield "norm_topk_prob is false: llama.cpp's 'qwen3moe' always divides weights by their sum, set it to true"


FAMILY = Family(
    arch="qwen3moe",
    model_type="qwen3_moe",
    keys=(
        # The width of dense layers; unused, since there are none.
        Key("feed_forward_length", "intermediate_size"),
        Key("expert_count", "num_experts"),
        Key("expert_used_count", "num_experts_per_tok"),
        Key("expert_feed_forward_length", "moe_intermediate_size"),
    ),
    rules=rules,
    write=grouped.attention_fields,
    read=read,
    limits=limits,
)
