"""What a recipe says of low-rank adapters.

LoRA: Hu et al., arXiv 2106.09685. rsLoRA (alpha / sqrt(r), so that the update's size does not shrink with the
rank): 2312.03732. DoRA (the weight's direction is adapted, its length is learnt): 2402.09353. LoRA+ (B learns
faster than A): 2402.12354. That adapters belong on all linear layers of the blocks: QLoRA, 2305.14314.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ALL_LINEAR = "all-linear"
"""Every linear layer of the blocks; neither embedding nor head. peft's word for it."""


class LoraConfig(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    scaling: Literal["lora", "rslora"] = "lora"
    """What BA is multiplied by: alpha / rank, or alpha / sqrt(rank)."""
    dora: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are left out in training; the frozen weight sees all."""
    targets: tuple[str, ...] = Field(default=(ALL_LINEAR,), min_length=1)
    """Last parts of names (`q_proj`), or `all-linear`."""
    lr_ratio_b: float = Field(default=1.0, gt=0)
    """LoRA+: the learning rate of B over that of A; 16 is the paper's, 1 is off."""
    init_seed: int = Field(default=0, ge=0)

    @property
    def scale(self) -> float:
        """Return the factor on BA."""
        return self.alpha / (self.rank if self.scaling == "lora" else math.sqrt(self.rank))
