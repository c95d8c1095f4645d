"""SmolLM3: llama without rotation in every fourth layer, an interval fixed by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields
from modelstack.architecture.gguf.rope_fields import rope_limits
from modelstack.architecture.gguf.rules import Rule
from modelstack.architecture.presets.preset import Json

_INTERVAL = 4
"""Value of `n_no_rope_layer_step` in llama.cpp's smollm3.cpp."""


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Return the rules of all tensors."""
    return grouped.model_rules(config, grouped.paired_attention_rules, grouped.mlp_rules, grouped.pre_norm_rules)


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that the metadata store, and the layers that llama.cpp does not rotate."""
    rotating = {"no_rope_layers": _rotating(json["num_hidden_layers"])}
    return grouped.read_attention_fields(fields, stored, json) | rotating


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    yield from grouped.no_output_bias(config, "smollm3")
    yield from rope_limits(config.rope_parameters["default"])
    if list(config.no_rope_layers) != _rotating(config.num_hidden_layers):
        yield (
            f"no_rope_layers is {list(config.no_rope_layers)}: llama.cpp's 'smollm3' rotates all but every "
            f"{_INTERVAL}th layer, so it must be {_rotating(config.num_hidden_layers)}"
        )
    if config.mlp_bias:
        yield "mlp_bias is true: llama.cpp's 'smollm3' has no biases in the MLP, train without biases"
    yield from grouped.no_windows(config, "smollm3")


def _rotating(n_layers: int) -> list[int]:
    return [int((layer + 1) % _INTERVAL != 0) for layer in range(n_layers)]


FAMILY = Family(
    arch="smollm3",
    model_type="smollm3",
    keys=(Key("feed_forward_length", "intermediate_size"),),
    rules=rules,
    write=grouped.attention_fields,
    read=read,
    limits=limits,
)
