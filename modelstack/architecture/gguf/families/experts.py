"""Rules shared by all families with routed experts in packed tensors.

Letters: E experts, I inner width of one expert, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.gguf.rules import Rule, packed_experts, plain


def routed_rules(ours: str, theirs: str) -> Iterator[Rule]:
    """Yield the rules of router and experts of the layer with the name prefixes `ours` and `theirs`."""
    yield plain(f"{ours}.mlp.gate.weight", f"{theirs}.ffn_gate_inp.weight", in_full=True)
    yield packed_experts(
        f"{ours}.mlp.experts.gate_up_proj", f"{theirs}.ffn_gate_exps.weight", f"{theirs}.ffn_up_exps.weight"
    )
    yield plain(f"{ours}.mlp.experts.down_proj", f"{theirs}.ffn_down_exps.weight")


def shared_rules(ours: str, theirs: str) -> Iterator[Rule]:
    """Yield the rules of the shared experts, which form one MLP."""
    for part in ("gate", "up", "down"):
        yield plain(f"{ours}.mlp.shared_experts.{part}_proj.weight", f"{theirs}.ffn_{part}_shexp.weight")


def correction_rule(ours: str, theirs: str) -> Rule:
    """Return the rule of the bias of auxiliary-loss-free balancing."""
    return plain(f"{ours}.mlp.gate.e_score_correction_bias", f"{theirs}.exp_probs_b.bias")


def experts_everywhere(config: ModelConfig, arch: str) -> Iterator[str]:
    """Yield an error if a layer is dense: llama.cpp routes in every layer of this architecture."""
    if "dense" in config.mlp_layer_types:
        yield f"mlp_layer_types has dense layers: llama.cpp's {arch!r} requires experts in all layers"
