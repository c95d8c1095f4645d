"""Configuration of low-rank adapters.

- LoRA: Hu et al., arXiv 2106.09685.
- rsLoRA: factor alpha / sqrt(r), so that the size of the update does not shrink with the rank; arXiv 2312.03732.
- DoRA: adapts the direction of each weight row and learns its length separately; arXiv 2402.09353.
- LoRA+: a higher learning rate for B than for A; arXiv 2402.12354.
- Adapters on all linear layers of the blocks: QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ALL_LINEAR = "all-linear"
"""Name of all linear layers of the blocks, without embedding and head; peft uses the same name."""


class LoraConfig(BaseModel):
    """Configuration of an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1)
    """Rank of the update BA."""
    alpha: float = Field(default=32.0, gt=0)
    """Numerator of the factor on BA."""
    scaling: Literal["lora", "rslora"] = "lora"
    """Factor on BA: alpha / rank, or alpha / sqrt(rank)."""
    dora: bool = False
    """Whether to learn the length of each weight row separately (DoRA)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is dropped in training; the frozen weight sees all inputs."""
    targets: tuple[str, ...] = Field(default=(ALL_LINEAR,), min_length=1)
    """Last parts of layer names (`q_proj`), or `all-linear`."""
    layers_to_transform: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of the blocks that get adapters, from 0, by peft's name; None: all.

    Blocks below the first one need no backward pass.
    """
    lr_ratio_b: float = Field(default=1.0, gt=0)
    """LoRA+: learning rate of B divided by that of A. The paper uses 16; 1 disables it."""
    init_seed: int = Field(default=0, ge=0)
    """Seed of the initial A."""

    @property
    def scale(self) -> float:
        """Factor on BA."""
        return self.alpha / (self.rank if self.scaling == "lora" else math.sqrt(self.rank))
