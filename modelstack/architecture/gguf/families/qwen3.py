"""Qwen3: grouped-query attention with a norm on each query and key head, no windows, no bias on the output."""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key
from modelstack.architecture.gguf.rope_fields import rope_limits
from modelstack.architecture.gguf.rules import Rule


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Return the rules of all tensors."""
    return grouped.model_rules(
        config, grouped.attention_rules, grouped.head_norm_rules, grouped.mlp_rules, grouped.pre_norm_rules
    )


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    yield from grouped.no_output_bias(config, "qwen3")
    yield from rope_limits(config.rope_parameters["default"])
    yield from grouped.no_windows(config, "qwen3")


FAMILY = Family(
    arch="qwen3",
    model_type="qwen3",
    keys=(Key("feed_forward_length", "intermediate_size"),),
    rules=rules,
    write=grouped.attention_fields,
    read=grouped.read_attention_fields,
    limits=limits,
)
