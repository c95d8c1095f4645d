"""Qwen2 and Qwen2.5: grouped-query attention with biases on queries, keys and values, no windows."""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import read_rope_fields, rope_fields, rope_limits
from modelstack.architecture.gguf.rules import Rule
from modelstack.architecture.presets.preset import Json


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules of all tensors."""
    yield from grouped.embedding_rules(config)
    for layer in range(config.num_hidden_layers):
        yield from grouped.attention_rules(config, layer)
        yield from grouped.mlp_rules(config, layer)
        yield from grouped.pre_norm_rules(layer)
    yield grouped.final_norm_rule()


def write(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of attention."""
    return grouped.head_fields(config) | rope_fields(config.rope_parameters["default"])


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `write` stored."""
    return grouped.read_head_fields(fields, json) | {"rope_parameters": read_rope_fields(fields)}


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    yield from rope_limits(config.rope_parameters["default"])
    yield from grouped.no_windows(config, "qwen2")


FAMILY = Family(
    arch="qwen2",
    model_type="qwen2",
    keys=(Key("feed_forward_length", "intermediate_size"),),
    rules=rules,
    write=write,
    read=read,
    limits=limits,
)
