"""Configuration of losses with a reference model, and published configurations.

A list of losses with weights is minimised as their weighted sum: mixed preference optimisation, MPO (2411.10442).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DirectName = Literal[
    "sigmoid",
    "cdpo",
    "robust",
    "hinge",
    "ipo",
    "ipo_sum",
    "sigmoid_norm",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]
"""Names of the formulas in `direct`."""
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

DIVERGENCE_FREE: frozenset[DirectName] = frozenset(
    ("sigmoid", "cdpo", "robust", "hinge", "ipo", "ipo_sum", "sigmoid_norm", "exo_pair", "discopop", "sft")
)
"""Losses that allow any divergence: in a margin the partition function cancels. Others need the reverse KL."""


class DirectTerm(BaseModel):
    """Loss of the sum and its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DirectName
    """Name of the loss."""
    weight: float = Field(default=1.0, ge=0)
    """Factor on the loss."""


class DirectLossConfig(BaseModel):
    """Losses with a reference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    losses: tuple[DirectTerm, ...] = Field(default=(DirectTerm(name="sigmoid"),), min_length=1)
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference; DPO's 0.1. For `ipo` it is the paper's tau.

    Losses of token means (`sigmoid_norm`) need a beta that is larger by about the number of tokens of a
    completion.
    """
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of pairs with swapped labels, for `cdpo`, `robust`, `exo_pair`, `aot` and `aot_unpaired`.

    EXO uses 1e-3.
    """
    divergence: Divergence = "reverse_kl"
    """Divergence between policy and reference."""
    divergence_alpha: float = Field(default=0.5, gt=0)
    """Parameter of `alpha_divergence`; close to 1 it is the reverse KL."""
    discopop_tau: float = Field(default=0.05, gt=0)
    """Temperature of DiscoPOP's mixture, from the paper."""

    @model_validator(mode="after")
    def _check_losses(self) -> Self:
        names = {term.name for term in self.losses}
        if self.divergence != "reverse_kl" and (others := sorted(names - DIVERGENCE_FREE)):
            raise ValueError(
                f"{', '.join(others)} is defined for the reverse KL only: set divergence = 'reverse_kl', "
                f"or choose from {', '.join(sorted(DIVERGENCE_FREE))}"
            )
        if "exo_pair" in names and self.label_smoothing == 0:
            raise ValueError(
                "exo_pair compares with smoothed labels: set label_smoothing above 0, the paper's is 1e-3"
            )
        return self


def _one(name: DirectName, beta: float) -> DirectLossConfig:
    return DirectLossConfig(losses=(DirectTerm(name=name),), beta=beta)


PUBLISHED: dict[str, DirectLossConfig] = {
    "dpo": _one("sigmoid", 0.1),
    "zephyr": _one("sigmoid", 0.01),
    "tulu3": _one("sigmoid_norm", 5.0),
    "smollm2": _one("sigmoid", 0.5),
    "smollm3": _one("apo_zero", 0.05),
    "mpo": DirectLossConfig(
        losses=(
            DirectTerm(name="sigmoid", weight=0.8),
            DirectTerm(name="bco_pair", weight=0.2),
            DirectTerm(name="sft", weight=1.0),
        )
    ),
}
"""Losses of published recipes.

- DPO: 2305.18290.
- Zephyr-7B, SmolLM2-360M, SmolLM3: alignment-handbook.
- Tulu 3: open-instruct, docs/tulu3.md.
- MPO: InternVL, 2411.10442.
"""
