"""Compared models: a base model, and choices that each change one decision of it.

A choice may adjust another size, so that only the decision differs and not the model size: an MLP without a gate
gets 3/2 of the width, and the active experts together have the width of the dense MLP. The table reports sizes and
FLOPs in any case. A recipe is TOML: `[base]` holds keys of `ModelConfig`; each `[choices.NAME]` holds the keys
that the choice changes, and `about`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelstack.architecture.config import ModelConfig, build
from modelstack.errors import UserError
from modelstack.files import read_toml

N_LAYERS = 4
BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,  # bytes: bits per byte are comparable between all models, and no tokenizer is needed
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "layer_types": ("full_attention",) * N_LAYERS,
    "mlp_layer_types": ("dense",) * N_LAYERS,
    "tie_word_embeddings": True,
}
"""Pre-norm, RoPE, SwiGLU, multi-head attention: the architecture that most open models are based on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision that differs from the base."""

    name: str
    about: str
    changes: Mapping[str, Any]

    def config(self, base: ModelConfig) -> ModelConfig:
        """Return the base with this choice applied.

        Raises:
            UserError: The resulting config is invalid.
        """
        return base.with_(**self.changes)


BASE_CHOICE = Choice("base", "pre-norm, RoPE, SwiGLU, multi-head attention", {})
_LATENT = {
    "layer_types": ("latent_attention",) * N_LAYERS,
    "kv_lora_rank": 48,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
}
_HYBRID = {
    "layer_types": ("linear_attention", "linear_attention", "linear_attention", "full_attention"),
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
_EXPERTS = {
    "mlp_layer_types": ("dense", "moe", "moe", "moe"),
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    # a third of the dense width: one shared and two routed experts together have the dense width
    "moe_intermediate_size": 128,
    "scoring_func": "sigmoid",
    "score_correction_bias": True,
}
CHOICES: dict[str, Choice] = {
    choice.name: choice
    for choice in (
        Choice("gqa", "one KV head for four query heads instead of four", {"num_key_value_heads": 1}),
        Choice("qk-norm", "a norm on every query and key head", {"qk_norm": "head"}),
        Choice("sandwich", "norms before and after each block", {"norm_placement": "sandwich"}),
        Choice("relu2", "squared ReLU without a gate, 3/2 as wide", {
            "mlp_gated": False, "hidden_act": "relu2", "intermediate_size": 576,
        }),
        Choice("nope", "no positions at all", {"position_embedding": "none"}),
        Choice("moe", "8 experts, 2 active and 1 shared, in three of four layers", _EXPERTS),
        Choice("alibi", "linear biases instead of rotation", {"position_embedding": "alibi"}),
        Choice("post-norm", "norms after each block only", {"norm_placement": "post"}),
        Choice("geglu", "GELU in the gate", {"hidden_act": "gelu_pytorch_tanh"}),
        Choice("mla", "latent attention, 56 numbers a token cached instead of 256", _LATENT),
        Choice("mhc", "four residual streams with doubly stochastic mixing", {
            "norm_placement": "hyper", "hc_mult": 4,
        }),
        Choice("delta-net", "three gated DeltaNet layers to one of attention", _HYBRID),
    )
}  # fmt: skip
"""Choices by name."""
DEFAULT = ("gqa", "qk-norm", "sandwich", "relu2", "nope", "moe")
"""Default choices: six that take a quarter of an hour on two cores."""


def chosen(names: list[str], known: Mapping[str, Choice]) -> list[Choice]:
    """Return choices by name.

    Raises:
        UserError: A name is unknown.
    """
    for name in names:
        if name not in known:
            raise UserError(f"choice {name!r} is not known; known: {', '.join(known)}")
    return [known[name] for name in names]


def read_recipe(path: Path) -> tuple[ModelConfig, dict[str, Choice]]:
    """Read a recipe; keys that its `[base]` does not set have the values of `BASE`.

    Raises:
        UserError: The file is not valid TOML, contains no choices, or has an unknown key.
    """
    content = read_toml(path, "recipe")
    if unknown := content.keys() - {"base", "choices"}:
        raise UserError(f"{path}: keys {sorted(unknown)} are not known; a recipe has [base] and [choices.NAME]")
    if not content.get("choices"):
        raise UserError(f"{path} has no [choices.NAME]: nothing to compare")
    base = build(BASE | content.get("base", {}))
    choices = {
        name: Choice(name, str(keys.get("about", "")), {k: v for k, v in keys.items() if k != "about"})
        for name, keys in content["choices"].items()
    }
    for choice in choices.values():
        choice.config(base)
    return base, choices
