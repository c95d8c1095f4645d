"""OLMo 3, llama.cpp's `olmo2` with windows: norms after attention and MLP, one norm over all queries or keys.

Layers with a window rotate with the same base as the others and without scaling.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import read_rope_fields, rope_fields, rope_limits
from modelstack.architecture.gguf.rules import Rule, plain
from modelstack.architecture.presets.preset import Json
from modelstack.errors import UserError

_PERIOD = 4
"""Interval of full-attention layers that llama.cpp assumes for files without a pattern."""


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Return the rules of all tensors."""
    return grouped.model_rules(
        config, grouped.attention_rules, grouped.head_norm_rules, grouped.mlp_rules, _post_norms
    )


def _post_norms(config: ModelConfig, layer: int) -> Iterator[Rule]:
    ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
    yield plain(f"{ours}.post_attention_layernorm.weight", f"{theirs}.post_attention_norm.weight")
    yield plain(f"{ours}.post_feedforward_layernorm.weight", f"{theirs}.post_ffw_norm.weight")


def write(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of attention."""
    rope = rope_fields(config.rope_parameters["full_attention"])
    return grouped.head_fields(config) | grouped.window_fields(config) | rope


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `write` stored."""
    rope = read_rope_fields(fields)
    if (local := fields.number("rope.freq_base_swa", rope["rope_theta"])) != rope["rope_theta"]:
        raise UserError(
            f"GGUF olmo2.rope.freq_base_swa is {local}: llama.cpp uses rope.freq_base, {rope['rope_theta']}, "
            f"in all layers"
        )
    return (
        grouped.read_head_fields(fields, json)
        | grouped.read_window_fields(fields, json, _PERIOD)
        | {
            "rope_parameters": {
                "full_attention": rope,
                "sliding_attention": {"rope_theta": rope["rope_theta"]},
            }
        }
    )


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    yield from grouped.no_output_bias(config, "olmo2")
    full, sliding = config.rope_parameters["full_attention"], config.rope_parameters["sliding_attention"]
    yield from rope_limits(full)
    if (sliding.rope_type, sliding.rope_theta) != ("default", full.rope_theta):
        yield (
            f"rope_parameters of sliding_attention are {sliding.rope_type}, {sliding.rope_theta}: llama.cpp's "
            f"'olmo2' uses full attention's base, {full.rope_theta}, and no scaling"
        )


FAMILY = Family(
    arch="olmo2",
    model_type="olmo3",
    keys=(Key("feed_forward_length", "intermediate_size"),),
    rules=rules,
    write=write,
    read=read,
    limits=limits,
    rotations=("full_attention", "sliding_attention"),
    output_required=True,
)
