"""Metadata and rules shared by all families with grouped-query attention and rotation of whole heads.

Letters: H heads, G KV heads, d head dim, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.family import Stored
from modelstack.architecture.gguf.fields import Fields, Value
from modelstack.architecture.gguf.rope_fields import read_rope_fields, rope_fields
from modelstack.architecture.gguf.rules import Rule, pairs_beside_each_other, plain
from modelstack.architecture.presets.preset import Json

LayerRules = Callable[[ModelConfig, int], Iterator[Rule]]
"""Rules of one part of a layer, from the config and the layer number."""


def attention_fields(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of heads and rotation, for architectures with the same rotation in all layers."""
    return head_fields(config) | rope_fields(config.rope_parameters["default"])


def read_attention_fields(fields: Fields, stored: Stored, json: Json) -> Json:
    """Return the keys of `config.json` that `attention_fields` stored."""
    return read_head_fields(fields, json) | {"rope_parameters": read_rope_fields(fields)}


def head_fields(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of G and d."""
    return {
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
    }


def read_head_fields(fields: Fields, json: Json) -> Json:
    """Return G and d; d defaults to D/H."""
    heads = json["num_attention_heads"]
    d = fields.size("attention.key_length", max(json["hidden_size"] // heads, 1))
    fields.must_equal("attention.value_length", d, "the key's length")
    fields.must_equal("rope.dimension_count", d, "the whole head")
    return {"num_key_value_heads": fields.size("attention.head_count_kv", heads), "head_dim": d}


def window_fields(config: ModelConfig) -> dict[str, Value]:
    """Return the metadata of windows, by layer."""
    if config.sliding_window is None:
        return {}
    return {
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
    }


def read_window_fields(fields: Fields, json: Json, period: int) -> Json:
    """Return window and layer types.

    A pattern is either a list of booleans per layer, or a number n: every n-th layer has no window. `period` is
    the n of files without a pattern.
    """
    layers, pattern = json["num_hidden_layers"], "attention.sliding_window_pattern"
    window = fields.count("attention.sliding_window", 0)
    if fields.has_row(pattern):
        slides = fields.row(pattern, layers)
    else:
        n = fields.size(pattern, period)
        slides = [(layer + 1) % n != 0 for layer in range(layers)]
    if not window:
        return {"layer_types": ["full_attention"] * layers}
    return {
        "sliding_window": window,
        "layer_types": ["sliding_attention" if slide else "full_attention" for slide in slides],
    }


def model_rules(config: ModelConfig, *parts: LayerRules) -> Iterator[Rule]:
    """Yield the rules of the embedding, of the parts of each layer in order, and of the final norm."""
    yield from embedding_rules(config)
    for layer in range(config.num_hidden_layers):
        for part in parts:
            yield from part(config, layer)
    yield final_norm_rule()


def embedding_rules(config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules of the embedding and, unless it is tied, of the head."""
    yield plain("model.embed_tokens.weight", "token_embd.weight")
    if not config.tie_word_embeddings:
        yield plain("lm_head.weight", "output.weight")


def attention_rules(config: ModelConfig, layer: int) -> Iterator[Rule]:
    """Yield the rules of the four projections and their biases, stored unchanged."""
    ours, theirs = f"model.layers.{layer}.self_attn", f"blk.{layer}"
    for part in ("q", "k", "v"):
        yield plain(f"{ours}.{part}_proj.weight", f"{theirs}.attn_{part}.weight")
        if config.attention_bias:
            yield plain(f"{ours}.{part}_proj.bias", f"{theirs}.attn_{part}.bias")
    yield plain(f"{ours}.o_proj.weight", f"{theirs}.attn_output.weight")
    if config.attention_out_bias:
        yield plain(f"{ours}.o_proj.bias", f"{theirs}.attn_output.bias")


def paired_attention_rules(config: ModelConfig, layer: int) -> Iterator[Rule]:
    """Yield the rules of attention for architectures that rotate channels (2j, 2j + 1) of queries and keys."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for rule in attention_rules(config, layer):
        n_heads = heads.get(rule.name.split(".")[-2])
        yield pairs_beside_each_other(rule.name, rule.stored[0], n_heads) if n_heads else rule


def head_norm_rules(config: ModelConfig, layer: int) -> Iterator[Rule]:
    """Yield the rules of the norms of queries and keys."""
    for part in ("q", "k"):
        yield plain(f"model.layers.{layer}.self_attn.{part}_norm.weight", f"blk.{layer}.attn_{part}_norm.weight")


def mlp_rules(config: ModelConfig, layer: int) -> Iterator[Rule]:
    """Yield the rules of a gated MLP's three projections with their biases."""
    for part in ("gate", "up", "down"):
        for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
            yield plain(f"model.layers.{layer}.mlp.{part}_proj.{kind}", f"blk.{layer}.ffn_{part}.{kind}")


def pre_norm_rules(config: ModelConfig, layer: int) -> Iterator[Rule]:
    """Yield the rules of the two norms of a pre-norm layer."""
    yield plain(f"model.layers.{layer}.input_layernorm.weight", f"blk.{layer}.attn_norm.weight")
    yield plain(f"model.layers.{layer}.post_attention_layernorm.weight", f"blk.{layer}.ffn_norm.weight")


def final_norm_rule() -> Rule:
    """Return the rule of the norm before the head."""
    return plain("model.norm.weight", "output_norm.weight")


def no_windows(config: ModelConfig, arch: str) -> Iterator[str]:
    """Yield an error if a layer has a window: llama.cpp has none in this architecture."""
    if "sliding_attention" in config.layer_types:
        yield f"layer_types has sliding_attention: llama.cpp's {arch!r} has no windows, train without windows"


def no_output_bias(config: ModelConfig, arch: str) -> Iterator[str]:
    """Yield an error if attention outputs have a bias: llama.cpp does not support it in this architecture."""
    if config.attention_out_bias:
        yield f"attention_bias is true: llama.cpp's {arch!r} has no bias on o_proj, train without biases"
