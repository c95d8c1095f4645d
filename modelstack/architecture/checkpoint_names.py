"""Translation between tensor names in checkpoint files and in memory.

In memory, names and shapes are those of transformers. Files store the experts unpacked: one matrix per expert and
projection. DeepSeek-V4's files use their own names throughout. Files written here use the names of the original
release of the family, so that other programs can read them. Files with the in-memory names can also be read.

A tensor in a file is either a whole tensor in memory or a part of one: one expert, and for `gate_up_proj` one
half.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.mtp import name_in_model, released_name

Half = Literal["gate", "up"]


@dataclass(frozen=True, slots=True)
class Place:
    """Location in memory of a tensor from a file."""

    name: str | None
    """Name in memory; None: the tensor is a copy of another one and is not loaded."""
    expert: int | None = None
    half: Half | None = None


PARTS: tuple[tuple[str, str, Half | None], ...] = (
    ("gate_proj.weight", "gate_up_proj", "gate"),
    ("up_proj.weight", "gate_up_proj", "up"),
    ("down_proj.weight", "down_proj", None),
)
"""Name of an expert's tensor in files, name of the packed tensor in memory, and the half of the packed tensor."""

V4_PARTS = {"gate_proj.weight": "w1.weight", "up_proj.weight": "w3.weight", "down_proj.weight": "w2.weight"}
V4_TOP = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "model.hc_head.hc_fn": "hc_head_fn",
    "model.hc_head.hc_base": "hc_head_base",
    "model.hc_head.hc_scale": "hc_head_scale",
    "lm_head.weight": "head.weight",
}
_INDEXER = "self_attn.compressor.indexer"
V4_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"{ours}_hc.{what}": f"hc_{ours}_{what}" for ours in ("attn", "ffn") for what in ("fn", "base", "scale")},
    "self_attn.q_a_proj.weight": "attn.wq_a.weight",
    "self_attn.q_a_norm.weight": "attn.q_norm.weight",
    "self_attn.q_b_proj.weight": "attn.wq_b.weight",
    "self_attn.kv_proj.weight": "attn.wkv.weight",
    "self_attn.kv_norm.weight": "attn.kv_norm.weight",
    "self_attn.o_a_proj.weight": "attn.wo_a.weight",
    "self_attn.o_b_proj.weight": "attn.wo_b.weight",
    "self_attn.sinks": "attn.attn_sink",
    "self_attn.compressor.position_bias": "attn.compressor.ape",
    "self_attn.compressor.kv_proj.weight": "attn.compressor.wkv.weight",
    "self_attn.compressor.gate_proj.weight": "attn.compressor.wgate.weight",
    "self_attn.compressor.kv_norm.weight": "attn.compressor.norm.weight",
    f"{_INDEXER}.position_bias": "attn.indexer.compressor.ape",
    f"{_INDEXER}.kv_proj.weight": "attn.indexer.compressor.wkv.weight",
    f"{_INDEXER}.gate_proj.weight": "attn.indexer.compressor.wgate.weight",
    f"{_INDEXER}.kv_norm.weight": "attn.indexer.compressor.norm.weight",
    f"{_INDEXER}.q_b_proj.weight": "attn.indexer.wq_b.weight",
    f"{_INDEXER}.scorer.weights_proj.weight": "attn.indexer.weights_proj.weight",
    "mlp.gate.weight": "ffn.gate.weight",
    "mlp.gate.e_score_correction_bias": "ffn.gate.bias",
    "mlp.gate.tid2eid": "ffn.gate.tid2eid",
    "mlp.shared_experts.gate_proj.weight": "ffn.shared_experts.w1.weight",
    "mlp.shared_experts.down_proj.weight": "ffn.shared_experts.w2.weight",
    "mlp.shared_experts.up_proj.weight": "ffn.shared_experts.w3.weight",
}
"""Names inside a layer, from names in memory to names in DeepSeek-V4's files."""
_V4_ALSO = {"attn.norm.weight": "self_attn.kv_norm.weight"}
"""Alternative names that transformers writes."""

_LAYER = re.compile(r"(?:model\.)?((?:layers|mtp)\.\d+)\.(.+)")
_EXPERT = re.compile(r"(.*)\.experts\.(\d+)\.(.+)")


def file_name(name: str, config: ModelConfig, part: str | None = None, expert: int = 0) -> str:
    """Return the name in files for a tensor in memory, or for one expert's part of it (a name in `PARTS`)."""
    if part is not None:
        name = f"{name.rpartition('.')[0]}.{expert}.{part}"
    name = released_name(name, config)
    if config.model_type != "deepseek_v4":
        return name
    if name in V4_TOP:
        return V4_TOP[name]
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    layer, inner = match.groups()
    if part is not None:
        return f"{layer}.ffn.experts.{expert}.{V4_PARTS[part]}"
    return f"{layer}.{V4_LAYER.get(inner, inner)}"


def place_of(name: str, config: ModelConfig) -> Place:
    """Return the location in memory of a tensor of a file. The name may be the released or the in-memory one."""
    if config.model_type == "deepseek_v4":
        name = _from_v4(name)
    in_model = name_in_model(name, config)
    match = _EXPERT.fullmatch(in_model or "")
    if match is None:
        return Place(in_model)
    stem, expert, part = match.groups()
    for file_part, packed, half in PARTS:
        if part == file_part:
            return Place(f"{stem}.experts.{packed}", int(expert), half)
    return Place(in_model)


def _from_v4(name: str) -> str:
    for ours, theirs in V4_TOP.items():
        if name in (theirs, f"model.{theirs}"):
            return ours
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    layer, inner = match.groups()
    prefix = layer if layer.startswith("mtp") else f"model.{layer}"
    for ours, theirs in V4_LAYER.items():
        if inner == theirs:
            return f"{prefix}.{ours}"
    for ours, theirs in V4_PARTS.items():
        if (expert := re.fullmatch(rf"ffn\.experts\.(\d+)\.{re.escape(theirs)}", inner)) is not None:
            return f"{prefix}.mlp.experts.{expert[1]}.{ours}"
    return f"{prefix}.{_V4_ALSO.get(inner, inner)}"
