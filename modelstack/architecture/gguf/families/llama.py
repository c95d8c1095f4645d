"""llama, and every model with the same architecture: SmolLM2, Llama 2 and 3.

llama.cpp rotates adjacent pairs of channels here, so rows of q and k are stored in that order.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields
from modelstack.architecture.gguf.rope_fields import (
    BANDS_KEY,
    band_factors,
    read_bands,
    read_rope_fields,
    rope_limits,
)
from modelstack.architecture.gguf.rules import Array, Rule
from modelstack.architecture.presets.preset import Json
from modelstack.errors import UserError


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Return the rules of all tensors."""
    return grouped.model_rules(config, grouped.paired_attention_rules, grouped.mlp_rules, grouped.pre_norm_rules)


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that the metadata store, and which biases exist."""
    rope, heads = read_rope_fields(fields), grouped.read_head_fields(fields, json)
    if stored.bands is not None:
        if stored.bands.size * 2 != heads["head_dim"]:
            raise UserError(
                f"GGUF tensor rope_freqs.weight has {stored.bands.size} factors; "
                f"it must have half of the head dim {heads['head_dim']}"
            )
        stated = fields.row(BANDS_KEY, 4) if BANDS_KEY in fields else None
        rope = read_bands(stored.bands, rope["rope_theta"], stated)
    return heads | {
        "attention_bias": stored.has_bias("attn_q"),
        "mlp_bias": stored.has_bias("ffn_up"),
        "rope_parameters": rope,
    }


def bands(config: ModelConfig) -> Array | None:
    """Return the tensor of Llama 3's scaling."""
    rope = config.rope_parameters["default"]
    return band_factors(rope, config.head_dim) if rope.rope_type == "llama3" else None


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the rotary scalings that llama.cpp does not support."""
    yield from rope_limits(config.rope_parameters["default"], ("linear", "yarn", "llama3"))


FAMILY = Family(
    arch="llama",
    model_type="llama",
    keys=(Key("feed_forward_length", "intermediate_size"),),
    rules=rules,
    write=grouped.attention_fields,
    read=read,
    limits=limits,
    bands=bands,
)
