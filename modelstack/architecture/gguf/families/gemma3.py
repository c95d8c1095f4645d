"""Gemma 3: four norms of 1 + weight around attention and MLP, windows with their own rotary base.

llama.cpp multiplies by a norm's weight, so the file holds 1 + weight. It always divides logits by the square root
of the head dim (of D/H in the model with 62 layers) and ignores `query_pre_attn_scalar`.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.families import grouped
from modelstack.architecture.gguf.family import Family, Key, Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import read_rope_fields, rope_fields, rope_limits
from modelstack.architecture.gguf.rules import Rule, shifted
from modelstack.architecture.presets.preset import Json

_PERIOD = 6
"""Interval of full-attention layers that llama.cpp assumes for files without a pattern."""
_LOCAL_THETA = 10_000.0
_LAYERS_OF_27B = 62
_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules of all tensors."""
    yield from grouped.embedding_rules(config)
    for layer in range(config.num_hidden_layers):
        yield from grouped.attention_rules(config, layer)
        yield from grouped.mlp_rules(config, layer)
        for ours, theirs in _NORMS.items():
            yield shifted(f"model.layers.{layer}.{ours}.weight", f"blk.{layer}.{theirs}.weight")
    yield shifted("model.norm.weight", "output_norm.weight")


def write(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of attention and of the head."""
    fields = grouped.head_fields(config) | grouped.window_fields(config)
    fields |= rope_fields(config.rope_parameters["full_attention"])
    fields["rope.freq_base_swa"] = float(config.rope_parameters["sliding_attention"].rope_theta)
    if config.final_logit_softcapping is not None:
        fields["final_logit_softcapping"] = config.final_logit_softcapping
    return fields


def read(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `write` stored, and the scale that llama.cpp uses."""
    heads = grouped.read_head_fields(fields, json)
    return (
        heads
        | grouped.read_window_fields(fields, json, _PERIOD)
        | {
            "rope_parameters": {
                "full_attention": read_rope_fields(fields),
                "sliding_attention": {"rope_theta": fields.number("rope.freq_base_swa", _LOCAL_THETA)},
            },
            "query_pre_attn_scalar": _divisor(
                json["num_hidden_layers"], json["hidden_size"] // json["num_attention_heads"], heads["head_dim"]
            ),
            "final_logit_softcapping": fields.number("final_logit_softcapping", 0.0) or None,
        }
    )


def limits(config: ModelConfig) -> Iterator[str]:
    """Yield the settings that llama.cpp's graph does not support."""
    yield from grouped.no_output_bias(config, "gemma3")
    yield from rope_limits(config.rope_parameters["full_attention"], ("linear",))
    if config.rope_parameters["sliding_attention"].rope_type != "default":
        yield "rope_parameters scale sliding_attention: llama.cpp's 'gemma3' scales full attention only"
    width = config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != (divisor := _divisor(config.num_hidden_layers, width, config.head_dim)):
        yield (
            f"query_pre_attn_scalar is {config.query_pre_attn_scalar}: llama.cpp's 'gemma3' always uses "
            f"{divisor} for this head_dim and number of layers; train with {divisor}"
        )


def _divisor(n_layers: int, width_a_head: int, head_dim: int) -> int:
    return width_a_head if n_layers == _LAYERS_OF_27B else head_dim


FAMILY = Family(
    arch="gemma3",
    model_type="gemma3_text",
    keys=(Key("feed_forward_length", "intermediate_size"),),
    rules=rules,
    write=write,
    read=read,
    limits=limits,
    rotations=("full_attention", "sliding_attention"),
)
